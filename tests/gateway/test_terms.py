"""Deadlines, priorities, and requests that are dropped when they are late."""

from __future__ import annotations

import re

import pytest

from planner.deadline import SLO_SCALE
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.test_serving import error_of


def n_cancelled(bench: Bench) -> int:
    return bench.engine.book.statistics()["requests_cancelled"]


async def test_equal_deadlines_go_by_priority(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    posted = [bench.posted(seed=1)]
    await until(lambda: bench.fleet.tasks())
    # a clock that stands still makes the deadlines of one bound equal
    now_s = bench.engine.now_s()
    with monkeypatch.context() as still:
        still.setattr(bench.engine.desk, "_now_s", lambda: now_s)
        for seed, priority in ((2, "batch"), (3, "standard"), (4, "interactive")):
            posted.append(bench.posted(seed=seed, priority=priority, slo_ms=60_000))
            await until(lambda: bench.engine.book.n_waiting() == len(posted) - 1)
    bench.fleet.release.set()
    for each in posted:
        assert (await each).status == 200
    assert [task.generation.seed for task in bench.fleet.tasks()] == [1, 4, 3, 2]


async def test_priority_decides_the_deadline_of_who_names_none(start: Start) -> None:
    bench = await start(n_workers=1)
    assert (await bench.post()).status == 200
    bench.fleet.fates.add("denoise", "hold")
    posted = [bench.posted(priority=priority) for priority in (None, "batch", "interactive", "standard")]
    await until(lambda: len(bench.engine.book.open_requests) == 4)
    by_priority = {job.priority: job.deadline_s - job.arrived_s for job in bench.engine.book}
    alone_s = by_priority["standard"] / SLO_SCALE["standard"]
    assert alone_s < 10
    for priority, allowed_s in by_priority.items():
        assert allowed_s == pytest.approx(SLO_SCALE[priority] * alone_s)
    bench.fleet.release.set()
    for each in posted:
        assert (await each).status == 200


async def test_a_late_request_is_finished(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    late = bench.posted(slo_ms=1)
    await until(lambda: any(bench.engine.now_s() > job.deadline_s for job in bench.engine.book))
    bench.fleet.release.set()
    assert (await late).status == 200
    assert n_cancelled(bench) == 0


async def test_a_request_in_time_is_not_dropped(start: Start) -> None:
    bench = await start()
    assert (await bench.post(n=3, slo_ms=60_000, drop_if_late=True)).status == 200


async def test_a_running_request_is_dropped_at_its_deadline(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    kept = bench.n_files
    response = await bench.post(n=2, slo_ms=60, drop_if_late=True)
    assert response.status == 504
    assert response.headers["X-Should-Retry"] == "false"
    error = await error_of(response)
    assert error["code"] == "deadline_missed"
    assert re.search(r"0\.060 s", error["message"])
    assert n_cancelled(bench) == 1
    await until(lambda: len(bench.fleet.cancels()) == 1, "the running one is cancelled")
    # never released: the worker left the stage because it was told to, and is free for the next
    assert (await bench.post()).status == 200
    assert bench.n_files == kept


async def test_a_waiting_request_is_dropped_at_its_deadline(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    first = bench.posted(seed=1, slo_ms=20)
    await until(lambda: bench.fleet.tasks())
    response = await bench.post(seed=2, slo_ms=60, drop_if_late=True)
    assert response.status == 504
    assert bench.engine.book.n_waiting() == 0
    bench.fleet.release.set()
    assert (await first).status == 200
    assert [task.generation.seed for task in bench.fleet.tasks()] == [1]


async def test_who_leaves_before_the_deadline_is_not_ended_again(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    left = bench.posted(slo_ms=200, drop_if_late=True)
    await until(lambda: bench.fleet.tasks())
    (request,) = bench.engine.book.open_requests
    left.cancel()
    await until(lambda: n_cancelled(bench) == 1)
    assert request.error is not None
    assert request.error.code == "client_left"
    await until(lambda: bench.engine.now_s() > request.deadline_s)
    assert n_cancelled(bench) == 1
