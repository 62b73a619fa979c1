"""The planner on real nodes: what it decides is carried out, and pictures do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.catalogue_file import catalogue_file
from bench.load import Result, TimedRequest, closed_loop
from bench.node import Node
from bench.room import CannotShift, held_bytes, kept_measurements, memory_between
from gateway.profiles import Kept
from pipelines.catalogue import Model, load_catalogue
from planner.measurements import Measurement, Measurements
from planner.types import Shape
from tests.system.nodes import cpu_node
from tests.system.pictures import STAGES, expected_picture, picture_of, post
from worker.resident import ResidentModel

pytestmark = [pytest.mark.process]

EMBEDDED = "triptych-emoji"
KINDS = dict(zip(STAGES, ("encode", "diffuse", "decode"), strict=True))
SMALL, LARGE = Shape(64, 64), Shape(256, 256)
LONG_STEPS = 1500
LONGEST_GAP_S = 8.0
"""Between two answers while stages move: a picture takes a second, and other tests share the machine."""


@pytest.fixture(scope="module")
def long_catalogue(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, which may take many steps."""
    many = msgspec.structs.replace(model, max_steps=10 * LONG_STEPS)
    return catalogue_file(tmp_path_factory.mktemp("catalogue"), "tiny", many)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first node that measures a model leaves its profile for the others."""
    return tmp_path_factory.mktemp("profiles")


def planned(folder: Path, model: str, profiles: Path, *flags: str) -> Node:
    """Two workers that know what stages cost."""
    measured = ("--profile", "auto", "--profiles", str(profiles), "--profile-bound-s", "6")
    return cpu_node(folder, model, 2, *measured, *flags)


async def embedded(tmp_path: Path, profiles: Path) -> Measurements:
    """What the embedded model costs."""
    async with planned(tmp_path, EMBEDDED, profiles):
        # it is measured, unless it was before
        pass
    return kept_measurements(profiles, EMBEDDED)


def homes(fleet: dict[str, Any]) -> list[set[str]]:
    """The stages that each worker is to hold."""
    return [set(worker["stages"].get(EMBEDDED, ())) for worker in fleet["placement"]["workers"].values()]


def is_whole(fleet: dict[str, Any]) -> bool:
    return all(held == set(STAGES) for held in homes(fleet))


def is_split(fleet: dict[str, Any]) -> bool:
    return all(held != set(STAGES) for held in homes(fleet)) and set().union(*homes(fleet)) == set(STAGES)


async def test_a_shift_to_large_pictures_moves_stages(tmp_path: Path, profiles: Path) -> None:
    bound = memory_between(await embedded(tmp_path, profiles), KINDS, SMALL, LARGE)
    flags = (
        *("--worker-memory-bytes", str(bound)),
        *("--mix-window-s", "3", "--min-dwell-s", "1", "--min-samples", "6"),
    )
    size = "64x64"
    is_over = False
    ends_s: list[float] = []

    def requests() -> Iterator[TimedRequest]:
        number = 0
        while not is_over:
            number += 1
            yield TimedRequest(prompt=f"a fox {number}", seed=number, steps=3, size=size)

    def done(result: Result) -> None:
        ends_s.append(result.due_s + result.latency_s)

    async with planned(tmp_path, EMBEDDED, profiles, *flags) as node:

        async def seen_whole() -> bool:
            return is_whole(await node.fleet())

        async def seen_split() -> bool:
            return is_split(await node.fleet())

        load = asyncio.create_task(closed_loop(node.base_url, requests(), concurrency=3, on_done=done))
        await node.wait_until(seen_whole, "every stage on every worker", timeout_s=90)
        before = (await node.fleet())["placement"]
        size = "256x256"
        await node.wait_until(seen_split, "the stages to be split", timeout_s=90)
        after = (await node.fleet())["placement"]
        n_split = len(ends_s)
        await node.wait_until(_more_than(ends_s, n_split + 6), "pictures of the split", timeout_s=90)
        is_over = True
        results = await load
        effects = [event for event in node.read_journal() if event["event"] == "effect"]
    assert [result.error for result in results if not result.ok] == []
    assert before["since_unix_s"] < after["since_unix_s"]
    assert after["reason"] == "no_room"
    assert {effect["effect"] for effect in effects} >= {"load", "evict", "run"}
    assert max(later - earlier for earlier, later in pairwise(sorted(ends_s))) < LONGEST_GAP_S


def _more_than(ends_s: list[float], n: int) -> Any:
    async def enough() -> bool:
        return len(ends_s) > n

    return enough


async def test_what_does_not_fit_whole_is_split_from_the_start(tmp_path: Path, profiles: Path) -> None:
    needs = held_bytes(await embedded(tmp_path, profiles), STAGES, "denoise", SMALL)
    # of its usual size, which is between the two
    bound = needs["all"] - 1
    assert max(needs["loop"], needs["rest"]) < bound
    asked = {"prompt": "a fox", "num_inference_steps": 2, "seed": 1, "exactness": "bitwise"}
    async with planned(tmp_path, EMBEDDED, profiles, "--worker-memory-bytes", str(bound)) as node:
        status, reply, _ = await post(node, **asked)
        assert status == 200, reply
        fleet = await node.fleet()
    assert is_split(fleet)
    assert not is_whole(fleet)
    for worker in fleet["workers"]:
        assert worker["resident_bytes"] <= bound
    async with planned(tmp_path, EMBEDDED, profiles) as node:
        assert is_whole(await node.fleet())
        _, whole, _ = await post(node, **asked)
    assert picture_of(reply) == picture_of(whole)


async def test_an_urgent_request_pauses_a_long_one(
    long_catalogue: Path, whole: ResidentModel, tmp_path: Path, profiles: Path
) -> None:
    long = {"prompt": "a cat", "num_inference_steps": LONG_STEPS, "seed": 5, "exactness": "bitwise"}
    async with planned(tmp_path, "tiny", profiles, "--catalogue", str(long_catalogue)) as node:
        await node.wait_until(_is_kept(profiles), "the profile to be written, which nobody waits for")
        step_s = _step_s(profiles)
        posted = [
            asyncio.create_task(post(node, **{**long, "seed": seed}, slo_ms=600_000)) for seed in (5, 6)
        ]

        async def both_at_it() -> bool:
            tasks = [worker["task"] for worker in (await node.fleet())["workers"]]
            return all(task is not None and (task["step"] or 0) > 50 for task in tasks)

        await node.wait_until(both_at_it, "both workers to be in a long loop")
        urgent_ms = 1000 * step_s * LONG_STEPS / 4
        status, reply, _ = await post(
            node, prompt="a dog", num_inference_steps=2, seed=1, slo_ms=urgent_ms, exactness="bitwise"
        )
        assert status == 200, reply
        assert not any(each.done() for each in posted)
        replies = [await each for each in posted]
        journal = node.read_journal()
    pauses, left = ([e for e in journal if e["event"] == kind] for kind in ("pause", "left"))
    assert [status for status, _, _ in replies] == [200, 200]
    assert {reply["exactness"] for _, reply, _ in replies} == {"bitwise"}
    assert pauses
    assert {event["reason"] for event in pauses} == {"more_urgent"}
    assert [event["job"] for event in left] == [event["job"] for event in pauses]
    assert all(event["started_at_s"] < event["ended_at_s"] and event["steps"] >= 1 for event in left)
    # which one was paused is the planner's choice; the other was not disturbed
    for seed, (_, reply, _) in zip((5, 6), replies, strict=True):
        assert picture_of(reply) == expected_picture(whole, {**long, "seed": seed})


def _is_kept(profiles: Path) -> Callable[[], Awaitable[bool]]:
    async def kept() -> bool:
        try:
            kept_measurements(profiles, "tiny")
        except CannotShift:
            return False
        return True

    return kept


def _step_s(profiles: Path) -> float:
    """Of the tiny model at its usual size."""
    return next(
        each.seconds
        for each in kept_measurements(profiles, "tiny").measured
        if (each.stage, each.shape, each.batch) == ("denoise", Shape(32, 32), 1)
    )


async def test_numeric_ones_are_batched_and_bitwise_ones_never(
    long_catalogue: Path, whole: ResidentModel, tmp_path: Path, profiles: Path
) -> None:
    """Tiny networks gain nothing by it, so the profile that the node reads says that they do."""
    body = {"prompt": "a cat", "num_inference_steps": 60, "slo_ms": 600_000}
    asked = [{**body, "seed": seed, "exactness": ("numeric", "bitwise")[seed % 4 == 0]} for seed in range(16)]
    async with planned(tmp_path, "tiny", profiles, "--catalogue", str(long_catalogue)):
        told = _with_good_batches(profiles, tmp_path)
    async with planned(tmp_path, "tiny", told, "--catalogue", str(long_catalogue)) as node:
        replies = await asyncio.gather(*(post(node, **each) for each in asked))
        events = [event for event in node.read_journal() if event["event"] == "stage" and event["job"]]
        n_loops = await node.metric("triptych_batch_jobs_count", stage="denoise")
    assert [status for status, _, _ in replies] == [200] * len(asked)
    kept = [reply["exactness"] for _, reply, _ in replies]
    by_asked = [(each["exactness"], got) for each, got in zip(asked, kept, strict=True)]
    assert by_asked.count(("bitwise", "bitwise")) == 4
    assert by_asked.count(("numeric", "numeric")) >= 4
    assert max(event["batch"] for event in events if event["kind"] == "diffuse") >= 2
    assert n_loops == len(asked)
    for each, (_, reply, _) in zip(asked, replies, strict=True):
        if reply["exactness"] == "bitwise":
            assert picture_of(reply) == expected_picture(whole, each)


def _with_good_batches(profiles: Path, tmp_path: Path) -> Path:
    """The tiny model's kept profile, but for twice and four times the jobs in 1.2 and 1.4 of the time."""
    (file,) = profiles.glob("tiny.*")
    kept = msgspec.json.decode(file.read_bytes(), type=Kept)
    alone = {each.shape: each for each in kept.measurements.measured if _is_loop_alone(each)}
    others = [each for each in kept.measurements.measured if each.stage != "denoise"]
    loops = [
        replace(each, batch=batch, seconds=factor * each.seconds)
        for each in alone.values()
        for batch, factor in ((1, 1.0), (2, 1.2), (4, 1.4))
    ]
    changed = replace(kept.measurements, measured=(*others, *loops))
    folder = tmp_path / "told"
    folder.mkdir()
    (folder / file.name).write_bytes(msgspec.json.encode(msgspec.structs.replace(kept, measurements=changed)))
    return folder


def _is_loop_alone(each: Measurement) -> bool:
    return (each.stage, each.batch) == ("denoise", 1)


async def test_what_is_hopeless_is_refused_or_made_with_fewer_steps(
    long_catalogue: Path, tmp_path: Path, profiles: Path
) -> None:
    async with planned(tmp_path, "tiny", profiles, "--catalogue", str(long_catalogue)) as node:
        step_s = _step_s(profiles)
        slo_ms = round(1000 * 0.75 * LONG_STEPS * step_s)
        asked = {"prompt": "a cat", "num_inference_steps": LONG_STEPS, "seed": 3, "slo_ms": slo_ms}
        status, reply, headers = await post(node, **asked)
        assert (status, reply["error"]["code"]) == (429, "deadline_infeasible")
        assert int(headers["Retry-After"]) >= 1
        refused = headers["X-Request-Id"]
        status, reply, _ = await post(node, **asked, allow_degraded=True)
        assert status == 200, reply
    journal = node.read_journal()
    assert reply["exactness"] == "approximate"
    assert LONG_STEPS // 2 <= reply["data"][0]["num_inference_steps"] < LONG_STEPS
    assert not [event for event in journal if event["event"] == "stage" and event["request"] == refused]
    assert [event["outcome"] for event in journal if event["event"] == "request"] == ["rejected", "done"]
    assert [event["event"] for event in journal if event["event"] in ("reject", "degrade")] == [
        "reject",
        "degrade",
    ]


def test_the_embedded_model_is_in_the_catalogue() -> None:
    assert load_catalogue()[EMBEDDED].max_size_px == LARGE.width_px
