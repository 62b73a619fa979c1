"""The made-up model of `tests.bench.small_costs` as a planner sees it, on workers with a bound on memory.

A small job: encode 1, four steps of 2 s (1.25 on two workers), decode 2, so 11 and 8 s. A large one: steps of
8 s (4 on two), so 35 and 19 s. Weights are 4, 8 and 2 bytes, a peak is 1 and 6, a loop's over its degree. The
best degree of both is 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.costs import Costs
from planner import (
    JobView,
    Observation,
    PlannerConfig,
    PlannerState,
    Run,
    RunningTask,
    Shape,
    WorkerView,
    decide,
)
from planner.state import initial_state
from planner.types import Effect, Evict, Expected, Load
from tests.bench.small_costs import LARGE, SMALL, STAGES, STEPS

EVEN = (Expected("small", SMALL, STEPS), Expected("small", LARGE, STEPS))


def keys(letters: str) -> frozenset[tuple[str, str]]:
    """The stages of a worker that is called that."""
    stages = dict(zip("EDC", STAGES, strict=True))
    return frozenset(("small", stages[letter]) for letter in letters)


def worker(name: str, letters: str = "", memory_bytes: int | None = None) -> WorkerView:
    """`name` is its node and its place, like n0w1."""
    return WorkerView(name, name[:2], keys(letters), device="test", memory_bytes=memory_bytes, degrees=(1, 2))


def node(name: str, n: int, letters: str = "", memory_bytes: int | None = None) -> list[WorkerView]:
    return [worker(f"{name}w{place}", letters, memory_bytes) for place in range(n)]


def job(
    job_id: str,
    shape: Shape = SMALL,
    *,
    deadline_s: float = 1000.0,
    arrived_s: float = 0.0,
    pending: tuple[str, ...] = STAGES,
    running: bool = False,
    drop_if_late: bool = False,
    batch_key: str = "",
) -> JobView:
    return JobView(
        job_id,
        "small",
        shape,
        STEPS,
        pending,
        arrived_s,
        deadline_s,
        running,
        started=pending != STAGES or running,
        drop_if_late=drop_if_late,
        batch_key=batch_key,
    )


def at_work(worker: WorkerView, view: JobView, since_s: float = 0.0) -> WorkerView:
    """The worker with that job alone."""
    task = RunningTask(
        f"task of {view.job_id}",
        (view.job_id,),
        "small",
        view.pending,
        view.shape,
        view.steps,
        0,
        since_s,
        workers=(worker.worker_id,),
        since_s=since_s,
    )
    return replace(worker, task=task)


class Asked:
    """One planner that is asked again and again."""

    def __init__(self, policy: str, costs: Costs, **more: object) -> None:
        config = PlannerConfig(policy=policy, **{"expected": EVEN, **more})  # type: ignore[arg-type]
        self.state: PlannerState = initial_state(config, costs.profile())
        self._models = costs.views

    def says(
        self, workers: Sequence[WorkerView], jobs: Sequence[JobView] = (), now_s: float = 0.0
    ) -> list[Effect]:
        seen = Observation(now_s, tuple(jobs), tuple(workers), self._models)
        self.state, effects = decide(self.state, seen)
        return list(effects)

    @property
    def holds(self) -> dict[str, str]:
        """What each worker is to hold, in letters."""
        assert self.state.placement is not None
        sets = {keys(letters): letters for letters in ("E", "D", "C", "ED", "DC", "EC", "EDC", "")}
        return {name: sets[held] for name, held in self.state.placement.stages.items()}


def runs(effects: Sequence[Effect]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Job -> letters of the stages, workers."""
    letters = dict(zip(STAGES, "EDC", strict=True))
    return {
        name: ("".join(letters[stage] for stage in effect.stages), effect.workers)
        for effect in effects
        if isinstance(effect, Run)
        for name in effect.jobs
    }


def loads(effects: Sequence[Effect]) -> dict[str, tuple[str, ...]]:
    return {effect.worker: effect.stages for effect in effects if isinstance(effect, Load)}


def evictions(effects: Sequence[Effect]) -> dict[str, tuple[str, ...]]:
    return {effect.worker: effect.stages for effect in effects if isinstance(effect, Evict)}
