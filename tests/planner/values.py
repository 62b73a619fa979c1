"""Short ways to write the planner's values in hand-worked instances."""

from __future__ import annotations

from collections.abc import Iterable

from planner.dispatch import dispatched
from planner.placement import Targets
from planner.profile import Profile
from planner.types import (
    JobView,
    ModelView,
    Observation,
    Parts,
    Priority,
    Run,
    RunningTask,
    Shape,
    StageSample,
    WorkerView,
)

SHAPE = Shape(512, 512)
TINY = ModelView("tiny", ("encode", "denoise", "decode"), "denoise")
MODELS = {"tiny": TINY}


def stages(*names: str, model: str = "tiny") -> frozenset[tuple[str, str]]:
    return frozenset((model, name) for name in names)


EVERY = stages(*TINY.stages)
LOOP = stages("denoise")
REST = stages("encode", "decode")


def job(
    job_id: str,
    deadline_s: float,
    *,
    pending: tuple[str, ...] = TINY.stages,
    arrived_s: float = 0.0,
    running: bool = False,
    priority: Priority = "standard",
) -> JobView:
    return JobView(job_id, "tiny", SHAPE, 4, pending, arrived_s, deadline_s, running, priority=priority)


def worker(
    worker_id: str,
    resident: frozenset[tuple[str, str]] = EVERY,
    *,
    loading: frozenset[tuple[str, str]] = frozenset(),
    busy_with: tuple[str, ...] = (),
) -> WorkerView:
    """`busy_with`: the stages that its task has still to run; none means that it is idle."""
    task = RunningTask("task", ("other",), "tiny", busy_with, SHAPE, 4, 0, 0.0) if busy_with else None
    return WorkerView(worker_id, "node", resident, loading, task)


def sample(stage: str, seconds: float, ended_s: float = 0.0, *, warm_up: bool = False) -> StageSample:
    return StageSample("tiny", stage, SHAPE, 4 if stage == "denoise" else 1, seconds, ended_s, warm_up)


def samples(denoise_share: float, n: int, ended_s: Iterable[float] = (0.0,)) -> tuple[StageSample, ...]:
    """`n` pairs of samples of one second together, at each of `ended_s`, with the share as asked."""
    return tuple(
        sample(stage, seconds, at_s)
        for at_s in ended_s
        for _ in range(n)
        for stage, seconds in (("denoise", denoise_share), ("decode", 1.0 - denoise_share))
    )


def runs(
    targets: Targets, observation: Observation, profile: Profile | None = None, parts: Parts | None = None
) -> list[Run]:
    """What dispatch starts, without what else becomes of jobs."""
    effects, _ = dispatched(targets, observation, profile or Profile(), parts or Parts())
    return [effect for effect in effects if isinstance(effect, Run)]
