"""A planner that pauses: the job keeps its steps, and ends like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.lifecycle import State
from planner.types import Effect, Observation, Pause, Reason
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.test_recovery import SPLIT, assert_clean, assert_served
from tests.gateway.test_serving import error_of
from wire.to_worker import RunTask

PLACEMENTS = pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["merged", "split"])


class Policy:
    """The real planner's decisions; each job of `pausing` is paused behind its first step and held there."""

    def __init__(self, bench: Bench) -> None:
        self.pausing: set[int] = set()
        self.further: list[Effect] = []
        self._bench = bench
        self._decide: Callable[[Observation], tuple[Effect, ...]] = bench.engine.planner.decide
        bench.engine.planner.decide = self.decide  # type: ignore[method-assign]

    def decide(self, observation: Observation) -> tuple[Effect, ...]:
        jobs = {job.job_id: job.generation.seed for job in self._bench.engine.book}
        held = {
            view.job_id
            for view in observation.jobs
            if view.steps_done and not view.running and jobs[view.job_id] in self.pausing
        }
        others = tuple(view for view in observation.jobs if view.job_id not in held)
        effects, self.further = [*self.further, *self._decide(replace(observation, jobs=others))], []
        for worker in observation.workers:
            task = worker.task
            if task and task.can_pause and task.steps_done and not task.pausing:
                (job_id,) = task.job_ids
                if jobs.get(job_id) in self.pausing:
                    effects.append(pause_of(worker.worker_id, job_id))
        return tuple(effects)

    def resume(self) -> None:
        self.pausing.clear()
        self._bench.engine._dirty.set()


def pause_of(worker: str, job_id: str) -> Pause:
    return Pause(worker=worker, job=job_id, reason=Reason.EARLIEST_DEADLINE, detail="another is due")


async def paused(bench: Bench, n: int = 1) -> None:
    await until(lambda: sum(job.state is State.PAUSED for job in bench.engine.book) == n, "a paused job")


def last_loop(bench: Bench) -> RunTask:
    return [task for task in bench.fleet.tasks() if "denoise" in task.stages][-1]


@PLACEMENTS
async def test_a_paused_job_goes_on_where_it_was(start: Start, placement: object) -> None:
    bench = await start(("denoise", "hold"), placement=placement, checkpoint_every=2)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await paused(bench)
    assert len(bench.fleet.pauses()) == 1
    (job,) = bench.engine.book
    assert (job.task_id, job.steps_done) == (None, 1)
    assert all(worker.task is None for worker in bench.engine.fleet)
    # its handoff and its checkpoint
    assert bench.n_files == bench.n_kept + 2
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_jobs{state="paused"} 1.0' in text
    assert 'triptych_queue_jobs{model="toy",stage="denoise"} 1.0' in text
    assert 'triptych_planner_effects_total{effect="pause",model="toy",reason="earliest_deadline"} 1.0' in text
    policy.resume()
    assert (await posted).status == 200
    task = last_loop(bench)
    assert task.stages[0] == "denoise"
    assert task.checkpoint is not None
    assert task.handoff is not None
    await assert_clean(bench)


async def test_others_run_while_it_is_paused(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await paused(bench)
    await assert_served(bench, seed=3)
    assert not posted.done()
    policy.resume()
    assert (await posted).status == 200
    await assert_clean(bench)


async def test_it_goes_on_on_another_worker(start: Start) -> None:
    placement = {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",), "cpu-2": ("denoise",)}
    bench = await start(("denoise", "hold"), n_workers=3, placement=placement)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await paused(bench)
    bench.fleet.fates.add("denoise", "hold")
    # it takes the worker on which the other was; what it has in memory plays no part
    other = bench.posted(seed=3, slo_ms=1000)
    await until(lambda: any(job.state is State.DIFFUSING for job in bench.engine.book))
    policy.resume()
    assert (await posted).status == 200
    bench.fleet.release.set()
    assert (await other).status == 200
    ran = [
        worker
        for worker, heard in bench.fleet.heard.items()
        for message in heard
        if isinstance(message, RunTask) and message.generation.seed == 9 and "denoise" in message.stages
    ]
    assert sorted(ran) == ["cpu-1", "cpu-2"]
    await assert_clean(bench)


async def test_it_can_be_paused_again(start: Start) -> None:
    bench = await start(("denoise", "hold"), ("denoise", "hold"), n_workers=1)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await paused(bench)
    policy.resume()
    await until(lambda: any(job.state is State.DIFFUSING for job in bench.engine.book))
    policy.pausing.add(9)
    bench.engine._dirty.set()
    await paused(bench)
    (job,) = bench.engine.book
    assert job.steps_done == 2
    assert bench.n_files == bench.n_kept + 2
    policy.resume()
    assert (await posted).status == 200
    await assert_clean(bench)


async def test_a_client_that_leaves_frees_what_is_paused(start: Start) -> None:
    bench = await start(("denoise", "hold"))
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await paused(bench)
    posted.cancel()
    await until(lambda: not bench.engine.book.open_requests)
    await assert_clean(bench)
    assert bench.engine.book.statistics()["requests_cancelled"] == 1


async def test_a_failing_request_frees_its_paused_pictures(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9, n=2)
    bench.fleet.fates.add("decode", "fail:internal")
    response = await posted
    assert (response.status, (await error_of(response))["code"]) == (500, "stage_failed")
    await assert_clean(bench)


async def test_a_client_that_leaves_while_the_pause_is_under_way(start: Start) -> None:
    bench = await start(("denoise", "hang"), n_workers=1)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await until(bench.fleet.pauses)
    posted.cancel()
    await until(lambda: not bench.engine.book.open_requests)
    bench.fleet.kill("cpu-0")
    await until(lambda: bench.fleet.n_deaths["cpu-0"] == 1)
    await assert_clean(bench)


async def test_a_worker_that_dies_instead_of_pausing(start: Start) -> None:
    bench = await start(("denoise", "hang"), n_workers=1)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await until(bench.fleet.pauses)
    policy.resume()
    bench.fleet.kill("cpu-0")
    assert (await posted).status == 200
    await assert_clean(bench)


async def test_a_lost_checkpoint_of_a_paused_job_begins_its_loop_again(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await paused(bench)
    (job,) = bench.engine.book
    assert job.checkpoint is not None
    bench.store.free(job.checkpoint.handle)
    policy.resume()
    assert (await posted).status == 200
    assert last_loop(bench).checkpoint is None
    assert last_loop(bench).stages[0] == "denoise"
    await assert_clean(bench)


@pytest.mark.parametrize("checkpoint_every", [0, 2])
async def test_a_pause_that_nobody_asked_for_is_counted_like_a_death(
    start: Start, checkpoint_every: int
) -> None:
    bench = await start(*[("denoise", "unasked")] * 3, checkpoint_every=checkpoint_every)
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (500, "worker_died_twice")
    await assert_clean(bench)


async def test_a_loop_whose_start_is_not_durable_is_not_paused(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1, checkpoint_every=0)
    policy = Policy(bench)
    policy.pausing.add(9)
    posted = bench.posted(seed=9)
    await until(lambda: any(job.state is State.DIFFUSING for job in bench.engine.book))
    (job,) = bench.engine.book
    task = bench.engine.fleet["cpu-0"].task
    assert task is not None
    assert not task.can_pause
    policy.further.append(pause_of("cpu-0", job.job_id))
    bench.engine._dirty.set()
    await until(lambda: not policy.further)
    assert not bench.fleet.pauses()
    bench.fleet.release.set()
    assert (await posted).status == 200


async def test_a_pause_without_room_for_the_loops_start_costs_the_loop(start: Start) -> None:
    bench = await start(("text_encoder", "no_room"), ("denoise", "hold"), n_workers=1, checkpoint_every=9)
    posted = bench.posted(seed=9)
    await until(lambda: any(job.state is State.DIFFUSING for job in bench.engine.book))
    task = bench.engine.fleet["cpu-0"].task
    assert task is not None
    assert not task.can_pause
    # asked for before it was known that there is no room
    bench.engine.roster.runs("toy").orders.pause(task, bench.engine.fleet["cpu-0"])
    assert (await posted).status == 200
    assert [task.stages[0] for task in bench.fleet.tasks()] == ["text_encoder"] * 2
    await assert_clean(bench)
