"""Workers that die, hang, lie and fail; one answer each time, and no file is left."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from gateway.errors import OperatorError
from gateway.fleet import WorkerState
from gateway.setbacks import MAX_HANDOFF_LOST, MAX_STORE_FULL
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.fates import Fates
from tests.gateway.scripted import ScriptedWorker
from tests.gateway.test_serving import error_of
from tests.gateway.toy import STAGES, picture_of
from wire.to_worker import Refused, ToWorker

SPLIT = {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)}


async def assert_clean(bench: Bench) -> None:
    """Nothing is open, and only what is kept for later is in the store."""
    await until(lambda: all(worker.task is None for worker in bench.engine.fleet), "idle workers")
    assert not bench.engine.book.open_requests
    # the last warm-ups may still be writing theirs
    await until(
        lambda: bench.n_files == bench.engine.handoffs.statistics()["files"] == bench.n_kept, "a clean store"
    )
    bench.engine.book.check()


async def assert_served(bench: Bench, seed: int = 9) -> None:
    response = await bench.post(seed=seed)
    assert response.status == 200
    (image,) = (await response.json())["data"]
    assert base64.b64decode(image["b64_json"]) == picture_of(seed)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["merged", "split"])
async def test_a_death_in_a_stage_is_survived(start: Start, stage: str, placement: object) -> None:
    bench = await start((stage, "die"), placement=placement)
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 1
    if placement is SPLIT:
        # only the lost stage is run again
        assert sorted(task.stages[0] for task in bench.fleet.tasks()) == sorted([*STAGES, stage])
    await until(lambda: all(worker.is_up for worker in bench.engine.fleet))
    await assert_clean(bench)


@pytest.mark.parametrize("stage", STAGES)
async def test_what_a_dead_worker_wrote_and_never_told_of_is_freed(start: Start, stage: str) -> None:
    bench = await start((stage, "write+die"))
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 1
    await assert_clean(bench)


@pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["merged", "split"])
async def test_a_death_while_the_picture_is_encoded_is_survived(start: Start, placement: object) -> None:
    bench = await start(("decode", "end+hang"), placement=placement)
    request = asyncio.create_task(bench.post(seed=9))
    await until(lambda: any(worker.finishing for worker in bench.engine.fleet))
    (worker,) = (worker for worker in bench.engine.fleet if worker.finishing)
    assert worker.is_free
    bench.fleet.kill(worker.worker_id)
    response = await request
    assert response.status == 200
    assert base64.b64decode((await response.json())["data"][0]["b64_json"]) == picture_of(9)
    await assert_clean(bench)


async def test_the_next_task_begins_while_a_picture_is_encoded(start: Start) -> None:
    bench = await start(("decode", "end+hold"), n_workers=1)
    held = asyncio.create_task(bench.post(seed=1))
    await until(lambda: bench.engine.fleet["cpu-0"].finishing)
    await assert_served(bench, seed=2)
    assert not held.done()
    bench.fleet.release.set()
    response = await held
    assert base64.b64decode((await response.json())["data"][0]["b64_json"]) == picture_of(1)
    await assert_clean(bench)


async def test_a_lone_worker_comes_back_and_finishes(start: Start) -> None:
    bench = await start(("decode", "die"), n_workers=1)
    await assert_served(bench)
    assert bench.fleet.n_deaths == {"cpu-0": 1}
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_worker_restarts_total{worker="cpu-0"} 1.0' in text
    await assert_clean(bench)


async def test_not_ready_while_the_only_denoiser_is_away(start: Start) -> None:
    bench = await start(("denoise", "die"), placement=SPLIT)
    bench.fleet.fates.add("warm:denoise", "hold")
    posted = bench.posted()
    await until(lambda: bench.fleet.n_deaths["cpu-1"] == 1)
    await until(lambda: bench.engine.fleet["cpu-1"].task is not None)
    response = await bench.client.get("/ready")
    assert response.status == 503
    assert "denoise" in (await error_of(response))["message"]
    bench.fleet.release.set()
    assert (await posted).status == 200
    await assert_clean(bench)


@pytest.mark.parametrize("stage", STAGES)
async def test_two_deaths_without_progress_are_poison(start: Start, stage: str) -> None:
    bench = await start((stage, "die"), (stage, "die"), (stage, "die"))
    response = await bench.post()
    assert response.status == 500
    error = await error_of(response)
    assert error["code"] == "worker_died_twice"
    assert stage in error["message"]
    assert response.headers["X-Should-Retry"] == "false"
    assert sum(bench.fleet.n_deaths.values()) == 2
    assert bench.fleet.fates.take(stage) == "die"
    await assert_served(bench)
    await until(lambda: all(worker.is_up for worker in bench.engine.fleet))
    await assert_clean(bench)


async def test_a_step_between_two_deaths_is_progress(start: Start) -> None:
    bench = await start(("denoise", "die"), ("denoise", "step+die"))
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 2


async def test_poison_fails_its_request_whole_and_no_other(start: Start) -> None:
    bench = await start(n_workers=3)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    for _ in range(3):
        bench.fleet.fates.add("denoise", "hold")
    poison = bench.posted(n=2)
    other = bench.posted(seed=5)
    await until(lambda: sum(job.state == "diffusing" for job in bench.engine.book) == 3)
    for job in bench.engine.book:
        if not job.request_id.startswith("none") and job.generation.seed != 5:
            job.died_at[1] = job.furthest
    (worker,) = [w for w in bench.engine.fleet if w.task and w.task.job_id and w.task.job_id.endswith("-1")]
    bench.fleet.kill(worker.worker_id)
    assert (await poison).status == 500
    bench.fleet.release.set()
    assert (await other).status == 200
    assert bench.engine.book.statistics()["requests_failed"] == 1


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("input", 400, "input_refused"),
        ("internal", 500, "stage_failed"),
        ("out_of_memory", 500, "out_of_memory"),
    ],
)
async def test_a_failed_task_fails_its_request(start: Start, kind: str, status: int, code: str) -> None:
    bench = await start(("denoise", f"fail:{kind}"))
    response = await bench.post(n=3)
    assert (response.status, (await error_of(response))["code"]) == (status, code)
    await assert_clean(bench)
    await assert_served(bench)
    assert bench.fleet.n_deaths == {"cpu-0": 0, "cpu-1": 0}


async def test_a_full_store_is_tried_again(start: Start) -> None:
    bench = await start(("denoise", "fail:store_full"), ("denoise", "fail:store_full"))
    await assert_served(bench)
    await assert_clean(bench)


async def test_a_store_that_stays_full_is_503(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.setbacks.STORE_FULL_HOLD_S", 0.001)
    bench = await start(*[("decode", "fail:store_full")] * (MAX_STORE_FULL + 1))
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (503, "handoff_store_full")
    await assert_clean(bench)


async def test_a_lost_handoff_starts_over(start: Start) -> None:
    bench = await start(("text_encoder", "no_file"), placement=SPLIT)
    await assert_served(bench)
    assert [task.stages[0] for task in bench.fleet.tasks()].count("text_encoder") == 2
    await assert_clean(bench)


async def test_a_lost_picture_starts_over(start: Start) -> None:
    bench = await start(("decode", "no_file"))
    await assert_served(bench)
    await assert_clean(bench)


async def test_handoffs_lost_again_and_again_fail(start: Start) -> None:
    bench = await start(*[("decode", "no_file")] * (MAX_HANDOFF_LOST + 1))
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "handoff_lost")
    await assert_clean(bench)


async def test_a_lost_input_of_a_warm_up_is_made_again(start: Start) -> None:
    bench = await start(("warm:text_encoder", "no_file"), n_workers=1)
    await assert_served(bench)
    await assert_clean(bench)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["merged", "split"])
async def test_lies_change_nothing(start: Start, stage: str, placement: object) -> None:
    bench = await start((stage, "lie"), (stage, "lie"), placement=placement)
    await assert_served(bench)
    await assert_served(bench)
    await assert_clean(bench)
    assert bench.engine.book.statistics()["requests_done"] == 2
    assert not bench.engine.failed.done()


@pytest.mark.parametrize("stage", STAGES)
async def test_a_worker_that_tells_only_the_end_is_believed(start: Start, stage: str) -> None:
    bench = await start((stage, "skip"), placement=SPLIT)
    await assert_served(bench)
    await assert_clean(bench)


async def test_an_output_that_is_anothers_file_fails(start: Start) -> None:
    bench = await start(("denoise", "others_file"), placement=SPLIT)
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "stage_failed")
    await assert_clean(bench)


async def test_a_worker_that_gives_up_tasks_is_bounded(start: Start) -> None:
    bench = await start(("text_encoder", "give_up"), ("text_encoder", "give_up"))
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "worker_died_twice")
    await assert_clean(bench)


async def test_a_silent_worker_is_killed(start: Start) -> None:
    bench = await start(("denoise", "silent"), heartbeat_timeout_s=0.4)
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 1


async def test_a_stuck_worker_is_killed_though_its_heart_beats(start: Start) -> None:
    bench = await start(("denoise", "hang"), stall_timeout_s=0.3)
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 1


async def test_a_warm_up_that_dies_is_done_again(start: Start) -> None:
    bench = await start(("warm:denoise", "die"), ("load:decode", "die"))
    await assert_served(bench)
    assert sum(bench.fleet.n_deaths.values()) == 2
    await assert_clean(bench)


async def test_a_death_while_describing_asks_another(start: Start) -> None:
    bench = await start(("describe", "die"))
    await assert_served(bench)


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (("describe", "fail"), "cannot be served: no such blocks"),
        (("describe", "lie"), "wrongly"),
        (("load:denoise", "fail"), "cannot load"),
        (("warm:decode", "fail:out_of_memory"), "the first run of decode on cpu-"),
        (("hello", "other_version"), "protocol"),
    ],
)
async def test_what_cannot_start_says_so(start: Start, fate: tuple[str, str], said: str) -> None:
    bench = await start(fate, wait_ready=False)
    error = await asyncio.wait_for(asyncio.shield(bench.engine.failed), 5)
    assert isinstance(error, OperatorError)
    assert error.exit_code == 1
    assert said in str(error)


@pytest.mark.parametrize(
    ("placement", "said"),
    [
        ({"cpu-0": ("text_encoder",), "cpu-1": ("refine",)}, "'refine'"),
        ({"cpu-0": ("text_encoder",), "cpu-1": ("denoise",)}, "no worker holds decode"),
    ],
)
async def test_a_placement_that_does_not_fit_the_model(start: Start, placement: object, said: str) -> None:
    bench = await start(wait_ready=False, placement=placement)
    error = await asyncio.wait_for(asyncio.shield(bench.engine.failed), 5)
    assert error.exit_code == 2
    assert said in str(error)


async def test_a_failed_warm_up_later_costs_the_worker_only(start: Start) -> None:
    bench = await start(("decode", "die"))
    bench.fleet.fates.add("warm:text_encoder", "fail:internal")
    await assert_served(bench)
    await until(lambda: sum(bench.fleet.n_deaths.values()) == 2)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    assert not bench.engine.failed.done()


async def test_workers_that_are_all_given_up_end_it(start: Start) -> None:
    bench = await start(n_workers=2)
    bench.engine.worker_given_up("cpu-0", "exit code 1")
    assert not bench.engine.failed.done()
    assert bench.engine.fleet["cpu-0"].state is WorkerState.GIVEN_UP
    bench.engine.worker_given_up("cpu-1", "exit code 1")
    assert bench.engine.failed.done()


async def test_a_bug_of_ours_answers_everyone_and_ends_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = await start(("denoise", "hold"))
    posted = bench.posted()
    await until(lambda: bench.fleet.tasks())

    def broken(observation: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.engine.planner, "decide", broken)
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "internal_error")
    assert (await posted).status == 500
    assert bench.engine.failed.done()


async def test_a_stage_pinned_to_a_worker_that_is_given_up_ends_it(start: Start) -> None:
    bench = await start(placement=SPLIT)
    bench.engine.worker_given_up("cpu-1", "exit code 1")
    assert "denoise was only on cpu-1" in str(bench.engine.failed.result())


async def test_strangers_are_refused(start: Start, tmp_path: Path) -> None:
    bench = await start()
    heard: list[ToWorker] = []
    stranger = ScriptedWorker(
        "gpu-9",
        endpoint=f"ipc://{tmp_path}/gateway.sock",
        store=bench.store,
        fates=Fates(),
        release=asyncio.Event(),
        heard=heard,
    )
    await asyncio.wait_for(stranger.run(), 5)
    assert [type(message) for message in heard] == [Refused]
    assert (await bench.post()).status == 200


async def test_a_held_job_is_woken_though_a_timer_came_early(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    first = bench.posted()
    await until(lambda: bench.fleet.tasks())
    second = bench.posted()
    await until(lambda: bench.engine.book.n_waiting() == 1)
    engine = bench.engine
    (held,) = [job for job in engine.book if job.task_id is None]
    held.hold_until_s = engine.now_s() + 0.05
    bench.fleet.release.set()
    assert (await first).status == (await second).status == 200


async def test_a_duplicate_of_a_live_handoff_does_not_free_it(start: Start) -> None:
    bench = await start(("text_encoder", "lie"), ("denoise", "hold"), placement=SPLIT)
    posted = bench.posted()
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    (job,) = bench.engine.book
    assert job.handoff is not None
    assert bench.store.get(job.handoff)
    bench.fleet.release.set()
    assert (await posted).status == 200
    await assert_clean(bench)
