"""Clients that leave: their jobs end, and nothing of them stays."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.conftest import Bench, Start, until
from wire.errors import HandoffLost
from wire.handle import Handle


async def leave(posted: asyncio.Task[object]) -> None:
    posted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posted


async def assert_nothing_stays(bench: Bench) -> None:
    await until(lambda: not bench.engine.book.open_requests, "the request's end")
    await until(lambda: all(worker.task is None for worker in bench.engine.fleet), "idle workers")
    assert bench.n_files == 2
    assert bench.engine.book.statistics()["requests_cancelled"] == 1


async def test_a_running_task_is_cancelled(start: Start) -> None:
    bench = await start(
        ("denoise", "hold"), placement={"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)}
    )
    posted = bench.posted()
    await until(lambda: any(task.stages == ("denoise",) for task in bench.fleet.tasks()))
    await leave(posted)
    await assert_nothing_stays(bench)
    assert bench.fleet.cancels() == [bench.fleet.tasks()[-1].task_id]
    assert (await bench.post()).status == 200


async def test_a_waiting_job_is_never_sent(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    first = bench.posted(seed=1)
    await until(lambda: bench.fleet.tasks())
    waiting = bench.posted(seed=2)
    await until(lambda: bench.engine.book.n_waiting() == 1)
    await leave(waiting)
    await until(lambda: bench.engine.book.n_waiting() == 0)
    bench.fleet.release.set()
    assert (await first).status == 200
    await assert_nothing_stays(bench)
    assert [task.generation.seed for task in bench.fleet.tasks()] == [1]
    assert not bench.fleet.cancels()


async def test_all_jobs_of_a_request_go(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    posted = bench.posted(n=5)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    await leave(posted)
    await assert_nothing_stays(bench)
    assert len(bench.fleet.tasks()) == 1


async def test_a_worker_that_dies_on_a_cancelled_task(start: Start) -> None:
    bench = await start(("denoise", "hang"), n_workers=1)
    posted = bench.posted()
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    await leave(posted)
    await until(lambda: bench.fleet.cancels())
    bench.fleet.kill("cpu-0")
    await until(lambda: bench.fleet.n_deaths["cpu-0"] == 1)
    await assert_nothing_stays(bench)
    assert (await bench.post()).status == 200


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_client_that_leaves_while_its_picture_is_read(start: Start, is_lost: bool) -> None:
    bench = await start()
    reading, go_on = asyncio.Event(), asyncio.Event()
    read = bench.engine.handoffs.read

    async def slow_read(handle: Handle) -> bytes:
        data = await read(handle)
        reading.set()
        await go_on.wait()
        if is_lost:
            raise HandoffLost(handle.name)
        return data

    bench.engine.handoffs.read = slow_read  # type: ignore[method-assign]
    posted = bench.posted()
    await reading.wait()
    await leave(posted)
    await until(lambda: not bench.engine.book.open_requests)
    go_on.set()
    await assert_nothing_stays(bench)
    assert (await bench.post()).status == (200 if not is_lost else 500)
    assert not bench.engine.failed.done()


async def test_a_request_that_ends_just_before_its_picture_is_read(start: Start) -> None:
    bench = await start()
    bench.engine.after_deliver = bench.engine.desk.end_all
    assert (await bench.post()).status == 503
    await assert_nothing_stays(bench)
    bench.engine.after_deliver = lambda: None
    assert (await bench.post()).status == 200
    assert not bench.engine.failed.done()
