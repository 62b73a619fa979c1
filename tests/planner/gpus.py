"""Hand-worked instances on devices whose costs are known: a loop of ten steps between short stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner import (
    Effect,
    JobView,
    ModelView,
    Observation,
    Pause,
    Profile,
    Run,
    RunningTask,
    Shape,
    StageKey,
    WakeAt,
    WorkerView,
)
from planner.dispatch import dispatched
from planner.types import Parts
from tests.planner.cluster import DEVICE, Costs
from tests.planner.values import EVERY, SHAPE, TINY

SMALL = SHAPE
LARGE = Shape(1024, 1024)
STEPS = 10

COSTS = Costs(
    TINY,
    once_s={"encode": {SMALL: 0.5, LARGE: 0.5}, "decode": {SMALL: 0.5, LARGE: 0.5}},
    step_s={
        SMALL: {1: 1.0, 2: 0.6, 4: 0.5},
        LARGE: {1: 8.0, 2: 4.0, 4: 2.0},
    },
    resume_s=0.05,
    batching=0.5,
    max_batch=4,
)
"""Alone a small job takes 11 s on one worker, 7 s on two, 6 s on four; a large one 81, 41 and 21 s. Two
together take 1.5 times as long, four 2.5 times."""

PROFILE = Profile().with_measured(COSTS.measured())


def job(job_id: str, deadline_s: float, shape: Shape = SMALL, **more: object) -> JobView:
    fields: dict[str, object] = {"pending": TINY.stages, "arrived_s": 0.0, **more}
    return JobView(job_id, "tiny", shape, STEPS, deadline_s=deadline_s, **fields)  # type: ignore[arg-type]


def idle(name: str, node: str = "n0", resident: frozenset[StageKey] = EVERY) -> WorkerView:
    return WorkerView(name, node, resident, device=DEVICE, degrees=(1, 2, 4))


def node(name: str, n: int, resident: frozenset[StageKey] = EVERY) -> list[WorkerView]:
    """`n` idle workers, called n0w0 and so on."""
    return [idle(f"{name}w{place}", name, resident) for place in range(n)]


def busy(
    workers: Sequence[WorkerView],
    view: JobView,
    *,
    steps_done: int = 0,
    since_s: float = 0.0,
    pausing: bool = False,
    can_pause: bool = True,
    steps_before: int = 0,
    pending: tuple[str, ...] = ("denoise", "decode"),
    others: Sequence[JobView] = (),
) -> list[WorkerView]:
    """The workers with one task, at its loop unless told otherwise."""
    task = RunningTask(
        f"task of {view.job_id}",
        (view.job_id, *(other.job_id for other in others)),
        view.model,
        pending,
        view.shape,
        view.steps,
        steps_done,
        0.0,
        can_pause=can_pause,
        pausing=pausing,
        workers=tuple(worker.worker_id for worker in workers),
        since_s=since_s,
        steps_before=steps_before,
    )
    return [replace(worker, task=task) for worker in workers]


def running(job_id: str, deadline_s: float, shape: Shape = SMALL, **more: object) -> JobView:
    return job(job_id, deadline_s, shape, running=True, started=True, **more)


def decided(
    workers: Sequence[WorkerView],
    jobs: Sequence[JobView],
    *,
    now_s: float = 0.0,
    parts: Parts | None = None,
    targets: Mapping[str, frozenset[StageKey]] | None = None,
    profile: Profile = PROFILE,
    models: Mapping[str, ModelView] | None = None,
    impossible: frozenset[StageKey] = frozenset(),
) -> tuple[list[Effect], WakeAt | None]:
    """Everything that dispatch says; a worker's target is what it holds unless told otherwise."""
    held = {worker.worker_id: worker.resident for worker in workers}
    seen = Observation(now_s, tuple(jobs), tuple(workers), models or {"tiny": TINY})
    return dispatched(targets or held, seen, profile, parts or Parts(), impossible=impossible)


def starts(effects: Sequence[Effect]) -> dict[str, tuple[str, ...]]:
    """The runs among `effects`: job -> workers."""
    return {job: effect.workers for effect in effects if isinstance(effect, Run) for job in effect.jobs}


def paused(effects: Sequence[Effect]) -> list[str]:
    return [effect.job for effect in effects if isinstance(effect, Pause)]
