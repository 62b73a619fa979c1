"""How long one decision takes: thread CPU time of `decide` on fleets of several sizes, with its collections.

Each fleet is driven by events as a gateway would see them (a task's end, a pause, a message in between), and
what the planner decides is carried out, so that the states measured are those that it makes. The number of
jobs is kept: for every one that ends or is refused another one comes. No device, no sockets, no sleep.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bench.stats import percentile
from planner import (
    JobView,
    ModelView,
    Observation,
    Pause,
    PlannerConfig,
    Profile,
    Run,
    RunningTask,
    Shape,
    StageSample,
    WorkerView,
    decide,
    initial_state,
)
from planner.measurements import Measurement, Measurements
from planner.types import Degrade, Reject

DEVICE = "gpu"
MODEL = ModelView("model", ("encode", "denoise", "decode"), "denoise")
STEPS = 20
DEGREES = (1, 2, 4, 8)
SHAPES = {Shape(512, 512): 0.1, Shape(1024, 1024): 0.5, Shape(1536, 1536): 1.4, Shape(2048, 2048): 3.0}
"""Seconds of one step on one worker."""


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet and a queue, and what the planner promises of them, in ms."""

    workers: int
    jobs: int
    p99_ms: float
    worst_ms: float


CASES = (Case(8, 16, 1.0, 10.0), Case(128, 200, 10.0, 50.0), Case(1024, 2000, 50.0, 200.0))


def profile() -> Profile:
    """Speed-ups that fall off with the degree, more so for small pictures."""
    measured = []
    for shape, step_s in SHAPES.items():
        for degree in DEGREES:
            efficiency = 1 / (1 + 0.02 * (degree - 1) / step_s)
            seconds = step_s / degree / efficiency
            measured.append(Measurement(stage="denoise", shape=shape, seconds=seconds, degree=degree))
        measured.append(Measurement(stage="denoise", shape=shape, seconds=1.8 * step_s, batch=2))
        measured.append(Measurement(stage="encode", shape=shape, seconds=0.05))
        measured.append(Measurement(stage="decode", shape=shape, seconds=0.3 * step_s))
    of_model = Measurements(device=DEVICE, model=MODEL.model, measured=tuple(measured), resume_s=0.02)
    return Profile().with_measured(of_model)


class _Fleet:
    """Tasks end when the profile says, give or take; each is heard of once in between, with nothing new."""

    def __init__(self, case: Case, policy: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._case = case
        self.now_s = 0.0
        resident = frozenset((MODEL.model, stage) for stage in MODEL.stages)
        self._workers = {
            f"w{place:04}": WorkerView(
                f"w{place:04}", f"n{place // 8:03}", resident, device=DEVICE, degrees=DEGREES
            )
            for place in range(case.workers)
        }
        self._jobs: dict[str, JobView] = {}
        self._state = initial_state(PlannerConfig(policy=policy), profile())
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._samples: list[StageSample] = []
        for _ in range(case.jobs):
            self._arrive()

    def decide(self) -> float:
        """One event and one decision. Returns its thread CPU seconds."""
        if self._events:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        seen = Observation(
            self.now_s,
            tuple(self._jobs.values()),
            tuple(self._workers.values()),
            {MODEL.model: MODEL},
            tuple(self._samples),
        )
        self._samples.clear()
        began_s = time.thread_time()
        self._state, effects = decide(self._state, seen)
        took_s = time.thread_time() - began_s
        for effect in effects:
            match effect:
                case Run(joins=None):
                    self._start(effect)
                case Pause():
                    self._pause(effect)
                case Reject():
                    del self._jobs[effect.job]
                    self._arrive()
                case Degrade():
                    self._jobs[effect.job] = replace(self._jobs[effect.job], steps=effect.steps)
        return took_s

    def _arrive(self) -> None:
        rng, number = self._rng, next(self._order)
        shape = rng.choices(list(SHAPES), (6, 3, 1, 1))[0]
        alone_s = SHAPES[shape] * STEPS
        # as much slack as the queue is long, so that some of it can be on time at any moment
        wait_s = self._case.jobs / self._case.workers * 12.0
        job = JobView(
            f"j{number:07}",
            MODEL.model,
            shape,
            STEPS,
            MODEL.stages,
            self.now_s,
            self.now_s + rng.uniform(0.2, 2.5) * (alone_s + wait_s),
            drop_if_late=rng.random() < 0.5,
            batch_key=rng.choice(("", "a", "b")),
        )
        self._jobs[job.job_id] = job

    def _start(self, run: Run) -> None:
        first = self._jobs[run.jobs[0]]
        for name in run.jobs:
            self._jobs[name] = replace(self._jobs[name], running=True, started=True)
        task = RunningTask(
            f"{run.jobs[0]}@{self.now_s}",
            run.jobs,
            MODEL.model,
            ("denoise", "decode"),
            first.shape,
            first.steps,
            first.steps_done,
            self.now_s,
            can_pause=True,
            workers=run.workers,
            since_s=self.now_s,
            steps_before=first.steps_done,
        )
        for worker in run.workers:
            self._workers[worker] = replace(self._workers[worker], task=task)
        step_s = self._state.profile.stage_s(DEVICE, MODEL, "denoise", first.shape, 1, degree=run.degree)
        assert step_s is not None
        seconds = step_s * (first.steps - first.steps_done) * self._rng.uniform(0.95, 1.05)
        self._at(self.now_s + seconds, lambda: self._end(task, step_s))
        self._at(self.now_s + seconds * self._rng.random(), lambda: None)

    def _pause(self, pause: Pause) -> None:
        task = self._workers[pause.worker].task
        assert task is not None
        step_s = self._state.profile.stage_s(DEVICE, MODEL, "denoise", task.shape, 1, degree=task.degree)
        assert step_s is not None
        done = min(task.steps - 1, task.steps_done + int((self.now_s - task.since_s) / step_s) + 1)
        told = replace(task, pausing=True)
        for worker in task.workers:
            self._workers[worker] = replace(self._workers[worker], task=told)
        job = self._jobs[pause.job]

        def left() -> None:
            if self._free(told):
                self._jobs[job.job_id] = replace(
                    job, running=False, steps_done=done, pending=("denoise", "decode")
                )

        self._at(self.now_s + step_s * self._rng.random(), left)

    def _end(self, task: RunningTask, step_s: float) -> None:
        if not self._free(task):
            return
        for name in task.job_ids:
            del self._jobs[name]
            self._arrive()
        self._samples.append(
            StageSample(
                MODEL.model,
                "denoise",
                task.shape,
                task.steps,
                step_s * task.steps,
                self.now_s,
                device=DEVICE,
                degree=task.degree,
                batch=len(task.job_ids),
            )
        )

    def _free(self, task: RunningTask) -> bool:
        """Whether it was still there."""
        now = self._workers[task.workers[0]].task
        if now is None or now.task_id != task.task_id:
            return False
        for worker in task.workers:
            self._workers[worker] = replace(self._workers[worker], task=None)
        return True

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))


def measure(case: Case, policy: str, n_decisions: int, seed: int) -> dict[str, Any]:
    """One row of the result. The first decision, which fills an empty fleet, is one of them."""
    fleet = _Fleet(case, policy, seed)
    took_ms = [1000 * fleet.decide() for _ in range(n_decisions)]
    return {
        "policy": policy,
        "workers": case.workers,
        "jobs": case.jobs,
        "n": n_decisions,
        "p20_ms": percentile(took_ms, 20),
        "p50_ms": percentile(took_ms, 50),
        "p80_ms": percentile(took_ms, 80),
        "p99_ms": percentile(took_ms, 99),
        "worst_ms": max(took_ms),
        "first_ms": took_ms[0],
        "promised_p99_ms": case.p99_ms,
        "promised_worst_ms": case.worst_ms,
    }
