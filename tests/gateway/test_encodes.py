"""Encode results that later jobs begin with: same prompt, any seed; no file is freed under a job or left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.encodes import EncodeCache, EncodeKey, encode_key
from gateway.handoffs import Handoffs
from gateway.terms import Terms
from pipelines.graph import StageGraph
from planner.types import Shape
from tests.gateway.conftest import MODEL, Bench, Start, until
from tests.gateway.test_jobs import handle
from tests.gateway.test_recovery import SPLIT, assert_clean, assert_served
from tests.gateway.toy import NODE, graph
from wire.generation import Adapter, Exactness, Generation, allows
from wire.handoff import HandoffStore

PLACEMENTS = pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["merged", "split"])
ROOM = 10_000
KEPT = (Exactness.BITWISE, Exactness.NUMERIC)
GENERATION = Generation(
    prompt="a hat", width_px=128, height_px=128, num_inference_steps=4, guidance_scale=4.0, seed=1
)


def key(stages: StageGraph | None = None, **changes: Any) -> EncodeKey | None:
    return encode_key(msgspec.structs.replace(GENERATION, **changes), MODEL, stages or graph())


def n_encodes(bench: Bench) -> int:
    return sum("text_encoder" in task.stages for task in bench.fleet.tasks())


def counted(bench: Bench) -> tuple[int, int, int]:
    statistics = bench.engine.encodes.statistics()
    return statistics["entries"], statistics["hits"], statistics["misses"]


def test_the_key_is_what_the_encode_stages_read() -> None:
    same: list[dict[str, Any]] = [
        {"seed": 2},
        {"num_inference_steps": 9},
        {"width_px": 64},
        {"guidance_scale": 5.0},
        {"negative_prompt": ""},
        {"adapter": Adapter(name="x", source="/x")},
        {"tiled_decode": True},
    ]
    other: list[dict[str, Any]] = [
        {"prompt": "a cap"},
        {"negative_prompt": "blue"},
        {"guidance_scale": 1.0},
    ]
    assert {key(**changes) for changes in same} == {key()}
    assert len({key(), *(key(**changes) for changes in other)}) == 1 + len(other)
    assert "hat" not in str(key())
    constant = msgspec.structs.replace(MODEL, inputs={"prompt": "always this"})
    assert encode_key(GENERATION, constant, graph()) != key()


def reading(*names: str) -> StageGraph:
    first, *rest = graph().stages
    return msgspec.structs.replace(graph(), stages=(msgspec.structs.replace(first, reads=names), *rest))


def test_what_draws_random_numbers_or_starts_from_a_picture_has_no_key() -> None:
    assert key(reading("prompt", "generator")) is None
    assert key(image=handle("p"), strength=0.5) is None
    assert key(reading()) is None
    assert key(reading("prompt", "height"), height_px=64) != key(reading("prompt", "height"))


@PLACEMENTS
async def test_a_repeat_prompt_is_not_encoded_again(start: Start, placement: object, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    bench = await start(placement=placement, encode_cache_bytes=ROOM, journal=file)
    await assert_served(bench, seed=1)
    assert counted(bench) == (1, 0, 1)
    response = await bench.post(seed=2)
    assert response.status == 200
    assert "encode;dur=0.0" in response.headers["Server-Timing"]
    assert n_encodes(bench) == 1
    assert counted(bench) == (1, 1, 1)
    text = await (await bench.client.get("/metrics")).text()
    assert "triptych_encode_cache_hits_total 1.0" in text
    assert "triptych_encode_cache_misses_total 1.0" in text
    assert f"triptych_encode_cache_bytes {float(len('encoded a hat '))}" in text
    await assert_clean(bench)
    bench.engine.accounts._journal.__exit__(None, None, None)
    stages = [json.loads(line) for line in file.read_text().splitlines() if '"event":"stage"' in line]
    second = [e["stage"] for e in stages if e["job"] and e["request"] == stages[-1]["request"]]
    assert second == ["denoise", "decode"]


async def test_the_pictures_of_a_request_share_theirs(start: Start) -> None:
    bench = await start(n_workers=1, encode_cache_bytes=ROOM)
    assert (await bench.post(n=4)).status == 200
    assert n_encodes(bench) == 1
    assert counted(bench) == (1, 3, 1)
    await assert_clean(bench)


async def test_it_can_be_off(start: Start) -> None:
    bench = await start(encode_cache_bytes=0, checkpoint_every=0)
    for seed in (1, 2):
        await assert_served(bench, seed=seed)
    assert n_encodes(bench) == 2
    assert {task.keep_after for task in bench.fleet.tasks()} == {None}
    assert counted(bench) == (0, 0, 0)
    await assert_clean(bench)


async def test_another_prompt_is_another_result(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM)
    for changes in ({}, {"prompt": "a cap"}, {"negative_prompt": "blue"}, {"guidance_scale": 1.0}):
        assert (await bench.post(**changes)).status == 200
    assert n_encodes(bench) == 4
    await assert_clean(bench)


async def test_the_least_recently_used_leaves(start: Start) -> None:
    bench = await start(encode_cache_bytes=2 * len("encoded prompt 1 None"))
    for number in (1, 2, 1, 3, 1, 2):
        assert (await bench.post(prompt=f"prompt {number}")).status == 200
    # 1 and 2; 1 again; 3 for 2; 1 again; 2 for 3
    assert n_encodes(bench) == 4
    assert counted(bench) == (2, 2, 4)
    await assert_clean(bench)


async def test_what_is_too_large_is_not_kept(start: Start) -> None:
    bench = await start(encode_cache_bytes=4)
    for seed in (1, 2):
        await assert_served(bench, seed=seed)
    assert counted(bench) == (0, 0, 2)
    await assert_clean(bench)


async def test_a_file_outlives_its_entry_while_a_job_needs_it(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM, placement=SPLIT)
    await assert_served(bench)
    bench.fleet.fates.add("denoise", "hold")
    posted = bench.posted(seed=2)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    (job,) = bench.engine.book
    assert job.handoff is not None
    bench.engine.encodes.clear()
    assert bench.store.get(job.handoff)
    bench.fleet.release.set()
    assert (await posted).status == 200
    await assert_clean(bench)
    assert bench.n_files == 2


async def test_a_lost_file_is_forgotten_and_the_job_starts_over(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM)
    await assert_served(bench)
    (entry,) = bench.engine.encodes._entries.values()
    bench.store.free(entry.handle)
    await assert_served(bench, seed=2)
    assert n_encodes(bench) == 2
    assert [task.stages[0] for task in bench.fleet.tasks()] == ["text_encoder", "denoise", "text_encoder"]
    assert counted(bench) == (1, 1, 2)
    await assert_clean(bench)


async def test_a_death_behind_a_known_result_goes_back_to_it(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM)
    await assert_served(bench)
    bench.fleet.fates.add("denoise", "die")
    await assert_served(bench, seed=2)
    assert n_encodes(bench) == 1
    await assert_clean(bench)


async def test_it_gives_way_before_the_store_is_full(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM, store_capacity_bytes=200)
    for number in range(12):
        assert (await bench.post(prompt=f"prompt {number}")).status == 200
        assert 2 * bench.engine.handoffs.n_bytes <= 200
    await assert_clean(bench)


async def test_a_full_store_empties_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.setbacks.STORE_FULL_HOLD_S", 0.001)
    bench = await start(encode_cache_bytes=ROOM)
    await assert_served(bench)
    bench.fleet.fates.add("decode", "fail:store_full")
    assert (await bench.post(prompt="a cap")).status == 200
    assert [*bench.engine.encodes._entries] == []
    await assert_clean(bench)


async def test_no_room_to_keep_a_result_empties_it(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM)
    await assert_served(bench)
    bench.fleet.fates.add("text_encoder", "no_room")
    assert (await bench.post(prompt="a cap")).status == 200
    assert counted(bench)[0] == 0
    await assert_clean(bench)


async def exactness_of(bench: Bench, **fields: Any) -> str:
    response = await bench.post(**fields)
    assert response.status == 200
    exactness: str = (await response.json())["exactness"]
    return exactness


@PLACEMENTS
async def test_what_was_made_in_a_batch_is_not_for_who_asked_for_the_bits(
    start: Start, placement: object
) -> None:
    bench = await start(("text_encoder", "numeric"), encode_cache_bytes=ROOM, placement=placement)
    assert await exactness_of(bench, seed=1) == "numeric"
    assert counted(bench)[0] == 1
    assert await exactness_of(bench, seed=2) == "numeric"
    assert n_encodes(bench) == 1
    # made anew, and better for all from now on
    assert await exactness_of(bench, seed=3, exactness="bitwise") == "bitwise"
    assert await exactness_of(bench, seed=4) == "bitwise"
    assert await exactness_of(bench, seed=5, exactness="bitwise") == "bitwise"
    assert (n_encodes(bench), counted(bench)) == (2, (1, 3, 2))
    await assert_clean(bench)


@PLACEMENTS
async def test_who_asked_for_the_bits_and_got_less_is_told(start: Start, placement: object) -> None:
    bench = await start(("text_encoder", "numeric"), encode_cache_bytes=ROOM, placement=placement)
    response = await bench.post(exactness="bitwise")
    assert response.status == 500
    assert "bitwise was asked for" in (await response.json())["error"]["message"]
    assert counted(bench)[0] == 0
    await assert_clean(bench)


async def test_the_deadline_does_not_count_an_encode_that_is_skipped(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM)
    asked: list[tuple[str, ...]] = []
    planner = bench.engine.planner
    deadline_s = planner.deadline_s

    def noted(
        model: str, stages: tuple[str, ...], shape: Shape, steps: int, now_s: float, terms: Terms
    ) -> float:
        asked.append(stages)
        return deadline_s(model, stages, shape, steps, now_s, terms)

    planner.deadline_s = noted  # type: ignore[method-assign]
    for seed in (1, 2):
        await assert_served(bench, seed=seed)
    assert asked == [("text_encoder", "denoise", "decode"), ("denoise", "decode")]


async def test_jobs_that_are_cancelled_leave_the_shared_file(start: Start) -> None:
    bench = await start(encode_cache_bytes=ROOM, n_workers=1)
    await assert_served(bench)
    bench.fleet.fates.add("denoise", "hold")
    posted = bench.posted(n=3)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    posted.cancel()
    await until(lambda: not bench.engine.book.open_requests)
    await assert_clean(bench)
    await assert_served(bench, seed=3)
    assert n_encodes(bench) == 1


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["put", "take", "drop", "forget", "clear", "end"]), st.integers(0, 5)),
        max_size=40,
    ),
    capacity_bytes=st.integers(0, 30),
    store_bytes=st.integers(1, 60),
)
def test_bytes_and_owners_always_add_up(
    tmp_path_factory: pytest.TempPathFactory,
    moves: list[tuple[str, int]],
    capacity_bytes: int,
    store_bytes: int,
) -> None:
    store = HandoffStore(tmp_path_factory.getbasetemp() / "encodes", node=NODE, capacity_bytes=10_000)
    handoffs = Handoffs(store)
    cache = EncodeCache(handoffs, capacity_bytes=capacity_bytes, store_bytes=store_bytes)
    jobs = []
    for move, number in moves:
        if move == "put":
            file = store.put(b"x" * (3 * number + 1))
            assert handoffs.own(file)
            assert not handoffs.own(file)
            jobs.append(file)
            cache.put(("ab"[number % 2], str(number)), file, KEPT[len(jobs) % 2])
        elif move == "take":
            for asked in KEPT:
                taken = cache.take(("ab"[number % 2], str(number)), asked)
                assert taken is None or allows(asked, taken.exactness)
                jobs += [] if taken is None else [taken.handle]
        elif move == "drop" and jobs:
            cache.drop(jobs[number % len(jobs)])
        elif move == "forget":
            cache.forget("ab"[number % 2])
            assert not any(key[0] == "ab"[number % 2] for key in cache._entries)
        elif move == "clear":
            cache.clear()
        elif move == "end" and jobs:
            handoffs.free(jobs.pop(number % len(jobs)))
        kept = cache.statistics()
        assert kept["n_bytes"] == sum(e.handle.n_bytes for e in cache._entries.values()) <= capacity_bytes
        entries = [entry.handle for entry in cache._entries.values()]
        owned = {file.name for file in (*jobs, *entries)}
        assert handoffs.statistics()["files"] == len(owned)
        assert all(store.get(file) for file in (*jobs, *entries))
    for file in jobs:
        handoffs.free(file)
    cache.clear()
    counted = handoffs.statistics()
    assert (counted["files"], counted["n_bytes"]) == (0, 0)
    assert (counted["taken"], counted["taken_bytes"]) == (counted["freed"], counted["freed_bytes"])
    assert store.used_bytes() == 0
