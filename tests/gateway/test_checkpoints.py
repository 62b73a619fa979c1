"""A loop that loses its worker goes on from its newest checkpoint, and no checkpoint is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.setbacks import MAX_HANDOFF_LOST
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.test_recovery import SPLIT, assert_clean, assert_served
from tests.gateway.test_serving import error_of
from tests.gateway.toy import checkpoint_of
from wire.to_gateway import CheckpointSaved, StageDone, TaskDone, TaskPaused
from wire.to_worker import RunTask

PLACEMENTS = pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["merged", "split"])


def loops(bench: Bench) -> list[RunTask]:
    return [task for task in bench.fleet.tasks() if "denoise" in task.stages]


def went_on(bench: Bench) -> RunTask:
    """The one task that began with a checkpoint."""
    (task,) = (task for task in bench.fleet.tasks() if task.checkpoint is not None)
    return task


@PLACEMENTS
@pytest.mark.parametrize("fate", ["checkpoint+die", "checkpoint+hang"])
async def test_a_loop_goes_on_from_its_checkpoint(start: Start, placement: object, fate: str) -> None:
    bench = await start(("denoise", fate), placement=placement, checkpoint_every=2, stall_timeout_s=0.3)
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 1
    task = went_on(bench)
    assert task.stages[0] == "denoise"
    assert task.handoff is not None
    assert task.checkpoint is not None
    assert task.checkpoint.n_bytes == len(checkpoint_of(task, 2))
    await assert_clean(bench)


async def test_the_encode_stage_is_kept_for_it_even_when_it_is_merged(start: Start) -> None:
    bench = await start(("denoise", "die"), checkpoint_every=2)
    await assert_served(bench)
    first, second = bench.fleet.tasks()
    assert (first.keep_after, first.checkpoint_every) == ("text_encoder", 2)
    assert (second.stages, second.keep_after) == (("denoise", "decode"), None)
    await assert_clean(bench)


@pytest.mark.parametrize("every", [0, 4])
async def test_without_checkpoints_a_loop_begins_again(start: Start, every: int) -> None:
    bench = await start(("denoise", "step+die"), checkpoint_every=every)
    await assert_served(bench)
    first, second = bench.fleet.tasks()
    assert (first.checkpoint_every, first.keep_after) == (every, "text_encoder" if every else None)
    assert second.checkpoint is None
    assert second.stages[0] == ("denoise" if every else "text_encoder")
    await assert_clean(bench)


async def test_only_the_newest_checkpoint_is_in_the_store(start: Start) -> None:
    bench = await start(("decode", "hold"), placement="colocated", checkpoint_every=2)
    posted = bench.posted(num_inference_steps=9)
    await until(lambda: any(job.state == "decoding" for job in bench.engine.book))
    (job,) = bench.engine.book
    # a death in the decode of a merged task costs the steps behind it, not the whole loop
    assert job.steps_done == 8
    assert bench.n_files == bench.n_kept + 2
    bench.fleet.release.set()
    assert (await posted).status == 200
    await assert_clean(bench)


async def test_a_death_in_a_merged_decode_repeats_only_the_last_steps(start: Start) -> None:
    bench = await start(("decode", "die"), placement="colocated", checkpoint_every=3)
    await assert_served(bench)
    assert went_on(bench).stages == ("denoise", "decode")
    await assert_clean(bench)


async def test_steps_behind_a_checkpoint_are_told_apart(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    bench = await start(("denoise", "checkpoint+die"), checkpoint_every=3, journal=file)
    assert (await bench.post(num_inference_steps=10)).status == 200
    bench.engine.accounts._journal.__exit__(None, None, None)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    (loop,) = [e for e in events if e["event"] == "stage" and e["stage"] == "denoise" and e["job"]]
    assert (loop["from_step"], loop["steps"]) == (3, 7)


async def test_deaths_with_steps_between_them_are_no_poison(start: Start) -> None:
    bench = await start(*[("denoise", "checkpoint+die")] * 4, checkpoint_every=2)
    response = await bench.post(num_inference_steps=10)
    assert response.status == 200
    assert sum(bench.fleet.n_deaths.values()) == 4
    assert [task.checkpoint is None for task in loops(bench)] == [True, False, False, False, False]
    await assert_clean(bench)


async def test_two_deaths_behind_the_same_checkpoint_are_poison(start: Start) -> None:
    bench = await start(("denoise", "checkpoint+die"), ("denoise", "die"), checkpoint_every=2)
    bench.fleet.fates.add("denoise", "die")
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "worker_died_twice")
    await assert_clean(bench)


async def test_a_lost_checkpoint_begins_the_loop_again(start: Start) -> None:
    bench = await start(("denoise", "lost_checkpoint"), placement=SPLIT, checkpoint_every=2)
    await assert_served(bench)
    encodes, loop, with_checkpoint, again, _ = bench.fleet.tasks()
    assert encodes.stages == ("text_encoder",)
    assert (loop.checkpoint, again.checkpoint) == (None, None)
    assert with_checkpoint.checkpoint is not None
    assert loop.handoff == with_checkpoint.handoff == again.handoff
    await assert_clean(bench)


async def test_checkpoints_lost_again_and_again_fail(start: Start) -> None:
    lost = [("denoise", "fail:handoff_lost")] * MAX_HANDOFF_LOST
    bench = await start(("denoise", "lost_checkpoint"), *lost, checkpoint_every=1)
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "handoff_lost")
    await assert_clean(bench)


async def test_a_checkpoint_that_is_anothers_file_is_not_taken(start: Start) -> None:
    bench = await start(("denoise", "others_checkpoint"), placement=SPLIT, checkpoint_every=2)
    await assert_served(bench)
    assert all(task.checkpoint is None for task in bench.fleet.tasks())
    await assert_clean(bench)


@PLACEMENTS
async def test_a_store_without_room_for_checkpoints_is_no_failure(start: Start, placement: object) -> None:
    bench = await start(
        ("text_encoder", "no_room"), ("denoise", "no_room"), placement=placement, checkpoint_every=1
    )
    await assert_served(bench)
    assert len(loops(bench)) == 1
    await assert_clean(bench)


async def test_a_checkpoint_is_no_use_without_what_the_loop_began_with(start: Start) -> None:
    bench = await start(
        ("text_encoder", "no_room"), ("denoise", "checkpoint+die"), placement="colocated", checkpoint_every=1
    )
    await assert_served(bench)
    assert [task.stages[0] for task in bench.fleet.tasks()] == ["text_encoder"] * 2
    assert all(task.checkpoint is None for task in bench.fleet.tasks())
    await assert_clean(bench)


async def test_a_client_that_leaves_frees_the_checkpoint(start: Start) -> None:
    bench = await start(("decode", "hold"), placement="colocated", checkpoint_every=1)
    posted = bench.posted()
    await until(lambda: any(job.state == "decoding" for job in bench.engine.book))
    posted.cancel()
    await until(lambda: not bench.engine.book.open_requests)
    await assert_clean(bench)


async def test_a_request_that_fails_frees_the_checkpoints_of_all_its_pictures(start: Start) -> None:
    bench = await start(("decode", "fail:internal"), n_workers=3, placement="colocated", checkpoint_every=1)
    assert (await bench.post(n=3)).status == 500
    await assert_clean(bench)


async def test_warm_ups_write_neither(start: Start) -> None:
    bench = await start(checkpoint_every=1, encode_cache_bytes=1000)
    warm_ups = [m for heard in bench.fleet.heard.values() for m in heard if isinstance(m, RunTask)]
    assert warm_ups
    assert {(task.keep_after, task.checkpoint_every) for task in warm_ups} == {(None, 0)}
    await assert_clean(bench)
    assert bench.engine.encodes.statistics() == {"entries": 0, "n_bytes": 0, "hits": 0, "misses": 0}


async def test_the_files_of_messages_from_the_dead_are_freed(start: Start) -> None:
    bench = await start()
    worker = bench.engine.fleet["cpu-1"]
    worker.lost(bench.engine.now_s(), for_good=True)
    for message in (
        CheckpointSaved(task_id="task", step=1, checkpoint=bench.store.put(b"x")),
        CheckpointSaved(task_id="task", step=1, checkpoint=None, reason="full"),
        TaskPaused(task_id="task", step=1, checkpoint=bench.store.put(b"x")),
        TaskDone(task_id="task", output=bench.store.put(b"x")),
        StageDone(task_id="task", stage="x", started_at_s=0.0, ended_at_s=1.0, output=bench.store.put(b"x")),
    ):
        bench.engine._hear("cpu-1", message)
    assert bench.n_files == bench.n_kept
