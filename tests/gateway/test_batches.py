"""Several tasks of one worker: how they are sent, what the planner sees of them, what a death means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse

from gateway.fleet import Worker
from gateway.job import Job
from gateway.tasks import Task, view_of
from planner.measurements import Measurements
from planner.types import Effect, Observation, Run, Shape, StageSample
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.test_jobs import request
from tests.gateway.test_recovery import assert_clean
from tests.gateway.toy import STAGES, measurements
from wire.generation import Adapter, Exactness
from wire.to_gateway import StageDone, StageStarted, StepDone
from wire.to_worker import MeasureProfile, RunTask


class Batching:
    """The real planner but for runs of what may be batched: all that wait, `n` at least, share one task.

    They join the loop of the job `joins`, if there is one.
    """

    def __init__(self, bench: Bench, n: int) -> None:
        self.n = n
        self.seen: list[Observation] = []
        self.joins: str | None = None
        self._decide: Callable[[Observation], tuple[Effect, ...]] = bench.engine.planner.decide
        bench.engine.planner.decide = self.decide  # type: ignore[method-assign]

    def decide(self, observation: Observation) -> tuple[Effect, ...]:
        self.seen.append(observation)
        effects = self._decide(observation)
        waiting = [job for job in observation.jobs if not job.running]
        if not all(job.batch_key for job in waiting):
            return effects
        others = tuple(effect for effect in effects if not isinstance(effect, Run))
        free = [worker.worker_id for worker in observation.workers if worker.task is None or self.joins]
        if len(waiting) < self.n or not free:
            return others
        jobs = tuple(job.job_id for job in waiting)
        run = Run(stages=waiting[0].pending, jobs=jobs, workers=(free[0],), joins=self.joins)
        return (*others, run)


async def batching(start: Start, n: int, *fates: tuple[str, str], **fields: Any) -> tuple[Bench, Batching]:
    bench = await start(*fates, n_workers=1, **fields)
    return bench, Batching(bench, n)


async def test_later_ones_join_the_first(start: Start) -> None:
    bench, policy = await batching(start, 3, ("denoise", "hold"))
    posted = bench.posted(seed=1, n=3)
    await until(lambda: len(bench.fleet.tasks()) == 3)
    first, *others = bench.fleet.tasks()
    assert first.joins is None
    assert [task.joins for task in others] == [first.task_id] * 2
    assert [task.generation.seed for task in (first, *others)] == [1, 2, 3]
    worker = bench.engine.fleet["cpu-0"]
    assert [task.task_id for task in worker.batch] == [task.task_id for task in bench.fleet.tasks()]
    assert not worker.is_free
    await until(lambda: worker.batch[0].steps_done == 1)
    bench.engine._dirty.set()
    await until(lambda: policy.seen[-1].workers[0].task is not None)
    task = policy.seen[-1].workers[0].task
    assert task is not None
    # the last of them has everything before it
    assert sorted(task.job_ids) == sorted(job.job_id for job in bench.engine.book)
    assert (task.pending, task.can_pause) == (STAGES, False)
    report = await (await bench.client.get("/v1/fleet")).json()
    (shown,) = report["workers"]
    assert (shown["task"]["batch"], len(shown["joined"])) == (3, 2)
    assert report["effects"][-1]["jobs"] == [job.job_id for job in bench.engine.book]
    bench.fleet.release.set()
    assert (await posted).status == 200
    await assert_clean(bench)


async def test_one_joins_a_loop_that_runs(start: Start) -> None:
    bench, policy = await batching(start, 1, ("denoise", "hold"))
    posted = bench.posted(seed=1)
    await until(lambda: bench.fleet.tasks())
    worker = bench.engine.fleet["cpu-0"]
    await until(lambda: worker.batch[0].steps_done == 1)
    (job,) = bench.engine.book
    policy.joins = job.job_id
    late = bench.posted(seed=2)
    await until(lambda: len(bench.fleet.tasks()) == 2)
    first, second = bench.fleet.tasks()
    assert second.joins == first.task_id
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_planner_effects_total{effect="join",model="toy",reason="earliest_deadline"} 1.0' in text
    bench.fleet.release.set()
    assert [(await each).status for each in (posted, late)] == [200, 200]
    await assert_clean(bench)


async def test_nothing_joins_what_is_not_at_its_loop(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    bench, policy = await batching(start, 1, ("text_encoder", "hold"))
    posted = bench.posted(seed=1)
    await until(lambda: bench.fleet.tasks())
    (job,) = bench.engine.book
    policy.joins = job.job_id
    late = bench.posted(seed=2)
    await until(lambda: "does not fit what it was shown" in caplog.text)
    policy.joins = None
    assert len(bench.fleet.tasks()) == 1
    bench.fleet.release.set()
    assert [(await each).status for each in (posted, late)] == [200, 200]


async def test_a_death_takes_all_back_and_none_of_them_is_batched_again(start: Start) -> None:
    """One of them may be poison, and the others are not to die of it twice."""
    bench, policy = await batching(start, 3, ("denoise", "hold"), ("denoise", "die"))
    posted = bench.posted(seed=1, n=3)
    await until(lambda: bench.engine.fleet["cpu-0"].batch and bench.engine.fleet["cpu-0"].batch[0].steps_done)
    assert {view.batch_key for view in policy.seen[-1].jobs} == {"text"}
    bench.fleet.kill("cpu-0")
    await until(lambda: bench.fleet.n_deaths["cpu-0"] == 1)
    await until(lambda: policy.seen[-1].jobs and {view.batch_key for view in policy.seen[-1].jobs} == {""})
    bench.fleet.fates.take("denoise")
    bench.fleet.release.set()
    assert (await posted).status == 200
    await assert_clean(bench)


async def test_who_leaves_a_batch_leaves_the_others_in_it(start: Start) -> None:
    bench, _ = await batching(start, 2, ("denoise", "hold"))
    leaves, stays = bench.posted(seed=1), bench.posted(seed=2)
    await until(lambda: len(bench.fleet.tasks()) == 2)
    leaves.cancel()
    await until(lambda: len(bench.fleet.cancels()) == 1)
    (cancelled,) = [task for task in bench.fleet.tasks() if task.generation.seed == 1]
    assert bench.fleet.cancels() == [cancelled.task_id]
    bench.fleet.release.set()
    assert (await stays).status == 200
    await assert_clean(bench)


def job(**fields: Any) -> Job:
    (made,) = request().jobs
    made.generation = msgspec.structs.replace(made.generation, **fields)
    return made


def test_who_may_share_a_batch() -> None:
    ink = Adapter(name="ink", source="/adapters/ink")
    assert job().view().batch_key == job(seed=9, num_inference_steps=7).view().batch_key == "text"
    assert job(exactness=Exactness.BITWISE).view().batch_key == ""
    keys = {
        job(adapter=adapter).batch_key for adapter in (None, ink, Adapter(name="ink", source="", scale=2))
    }
    assert len(keys) == 3


def task(name: str, *, sent_s: float = 0.0, n_ended: int = 0, steps_done: int = 0, **fields: Any) -> Task:
    return Task(
        task_id=name,
        job_id=f"job-{name}",
        model="toy",
        stages=STAGES,
        shape=Shape(128, 128),
        steps=4,
        sent_s=sent_s,
        moved_at_s=sent_s,
        since_s=sent_s,
        n_ended=n_ended,
        steps_done=steps_done,
        **fields,
    )


def test_a_batch_is_where_the_last_of_it_is() -> None:
    near = task("near", n_ended=1, steps_done=3, can_pause=True)
    far = task("far", sent_s=2.0, n_ended=1, steps_done=1, can_pause=True, from_step=1)
    alone = view_of([near])
    assert (alone.job_ids, alone.steps_done, alone.can_pause) == (("job-near",), 3, True)
    both = view_of([near, far])
    assert both.job_ids == ("job-far", "job-near")
    assert (both.task_id, both.steps_done, both.steps_before) == ("far", 1, 1)
    assert (both.started_s, both.since_s) == (0.0, 2.0)
    assert not both.can_pause


async def test_a_sample_says_how_many_shared_the_loop(start: Start) -> None:
    """Two steps alone and two together: of one loop that is one and a half, of the other two."""
    bench = await start(n_workers=1)
    worker: Worker = bench.engine.fleet["cpu-0"]
    runs = bench.engine.roster.runs("toy")
    old, new = task("old", n_ended=1), task("new", n_ended=1)
    worker.batch = [old]
    # those of the last warm-ups
    runs.take_samples()

    def step(which: Task, number: int) -> None:
        runs.heard(worker, which, StepDone(task_id=which.task_id, step=number, steps=4, done_at_s=0.0))

    runs.heard(worker, old, StageStarted(task_id="old", stage="denoise", started_at_s=0.0))
    step(old, 1)
    worker.batch = [old, new]
    step(old, 2)
    runs.heard(worker, new, StageStarted(task_id="new", stage="denoise", started_at_s=0.0))
    for number in (3, 4):
        step(old, number)
        step(new, number - 2)
    samples: list[StageSample] = []
    for which in (old, new):
        ended = StageDone(task_id=which.task_id, stage="denoise", started_at_s=0.0, ended_at_s=1.0)
        runs.heard(worker, which, ended)
        samples += runs.take_samples()
    assert [sample.batch for sample in samples] == [2, 2]
    assert (old.n_in_loop, new.n_in_loop) == (6, 4)
    worker.batch = []


def encode_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two encodes in 1.2 and four in 1.4 of the time of one; encodes last longer than anything else."""

    def told(order: MeasureProfile) -> Measurements:
        alone = measurements(order)
        encodes = [replace(m, seconds=2.0) for m in alone.measured if m.stage == "text_encoder"]
        others = [m for m in alone.measured if m.stage != "text_encoder"]
        together = [
            replace(m, batch=n, seconds=factor * m.seconds)
            for m in encodes
            for n, factor in ((2, 1.2), (4, 1.4))
        ]
        return replace(alone, measured=(*encodes, *others, *together))

    monkeypatch.setattr("tests.gateway.scripted.measurements", told)


async def held_encode(start: Start, **fields: Any) -> tuple[Bench, asyncio.Task[ClientResponse]]:
    """A fleet whose one encoder is busy with a first job, whose decodes go on elsewhere."""
    placement = {"cpu-0": ("text_encoder",), "cpu-1": ("denoise", "decode")}
    bench = await start(placement=placement, profile="auto", encode_cache_bytes=10_000, **fields)
    bench.fleet.fates.add("text_encoder", "hold")
    first = bench.posted(seed=1, prompt="first", slo_ms=600_000)
    await until(
        lambda: bench.engine.fleet["cpu-0"].batch and bench.engine.fleet["cpu-0"].batch[0].stage_started
    )
    return bench, first


def encodes_of(bench: Bench) -> list[RunTask]:
    return [task for task in bench.fleet.tasks() if task.stages == ("text_encoder",)]


async def released(bench: Bench, n_waiting: int) -> None:
    """All wait behind the first when it goes on; who is held later stays so."""
    await until(lambda: len([*bench.engine.book]) == n_waiting + 1)
    bench.fleet.release.set()
    bench.fleet.release.clear()


def waiting(bench: Bench, *seeds: int, **fields: Any) -> list[asyncio.Task[ClientResponse]]:
    """One behind the other by deadline, each with a prompt of its own."""
    return [
        bench.posted(**{"seed": seed, "prompt": f"hat {seed}", "slo_ms": 600_000 + 1000 * seed, **fields})
        for seed in seeds
    ]


async def test_encodes_that_wait_are_made_in_one_batch(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the real planner, from what was measured; other sizes share, who wants the bits does not."""
    encode_batches(monkeypatch)
    file = tmp_path / "journal.jsonl"
    bench, first = await held_encode(start, journal=file)
    bench.fleet.fates.add("together", "3")
    others = [
        *waiting(bench, 2, 4),
        *waiting(bench, 3, size="64x64"),
        *waiting(bench, 5, exactness="bitwise"),
    ]
    await released(bench, 4)
    replies = [await each for each in (first, *others)]
    assert [reply.status for reply in replies] == [200] * 5
    kept = [(await reply.json())["exactness"] for reply in replies]
    assert kept == ["bitwise", "numeric", "numeric", "numeric", "bitwise"]
    tasks = {task.generation.seed: task for task in encodes_of(bench)}
    leader = tasks[2].task_id
    joins = {seed: task.joins for seed, task in tasks.items()}
    assert joins == {1: None, 2: None, 3: leader, 4: leader, 5: None}
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_batch_jobs_sum{model="toy",stage="text_encoder"} 11.0' in text
    again = await bench.post(seed=9, prompt="hat 3")
    assert ((await again.json())["exactness"], len(encodes_of(bench))) == ("numeric", 5)
    await assert_clean(bench)
    bench.engine.accounts._journal.__exit__(None, None, None)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    batches = [e["batch"] for e in events if e["event"] == "stage" and e["kind"] == "encode" and e["job"]]
    assert sorted(batches) == [1, 1, 3, 3, 3]


async def test_an_encode_that_fails_or_is_left_hurts_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_batches(monkeypatch)
    bench, first = await held_encode(start)
    bench.fleet.fates.add("together", "3")
    for fate in ("hold", "fail:out_of_memory"):
        bench.fleet.fates.add("text_encoder", fate)
    stays, fails, leaves = waiting(bench, 2, 3, 4)
    await released(bench, 3)
    assert (await first).status == 200
    await until(lambda: len(encodes_of(bench)) == 4)
    leaves.cancel()
    assert ((await stays).status, (await fails).status) == (200, 500)
    (cancelled,) = [task for task in encodes_of(bench) if task.generation.seed == 4]
    assert bench.fleet.cancels() == [cancelled.task_id]
    await assert_clean(bench)


async def test_encodes_that_gain_nothing_are_made_one_by_one(start: Start) -> None:
    """The scripted profile knows of no batches."""
    bench, first = await held_encode(start)
    others = waiting(bench, 2, 3)
    await released(bench, 2)
    assert [(await each).status for each in (first, *others)] == [200] * 3
    assert [task.joins for task in encodes_of(bench)] == [None] * 3


async def test_a_sample_says_how_many_encoded_together(start: Start) -> None:
    bench = await start(n_workers=1)
    worker: Worker = bench.engine.fleet["cpu-0"]
    runs = bench.engine.roster.runs("toy")
    one, two, behind = task("one"), task("two"), task("behind")
    worker.batch = [one, two, behind]
    # those of the last warm-ups
    runs.take_samples()
    for which in (one, two):
        started = StageStarted(task_id=which.task_id, stage="text_encoder", started_at_s=0.0)
        runs.heard(worker, which, started)
    for which in (one, two):
        ended = StageDone(task_id=which.task_id, stage="text_encoder", started_at_s=0.0, ended_at_s=1.0)
        runs.heard(worker, which, ended)
    runs.heard(worker, behind, StageStarted(task_id="behind", stage="text_encoder", started_at_s=1.0))
    ended = StageDone(task_id="behind", stage="text_encoder", started_at_s=1.0, ended_at_s=2.0)
    runs.heard(worker, behind, ended)
    samples = runs.take_samples()
    assert [(sample.stage, sample.batch) for sample in samples] == [
        ("text_encoder", 2),
        ("text_encoder", 2),
        ("text_encoder", 1),
    ]
    worker.batch = []
