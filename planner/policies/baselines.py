"""Servers without a planner, B1 to B6 of TridentServe: one policy of three choices.

- *Unit*: the whole pipeline is one task on a gang, or its stages are split by hand over a fixed share of the
  workers each (`planner.policies.hand_made`).
- *Degree*: one for all (`PlannerConfig.static_degree`); *buckets*, fixed groups of workers by degree, where a
  job goes to the group of its best degree k*; or *dynamic*, k* where a node has as many idle workers, else
  the widest gang that there is room for.
- *Order*: first come, first served, in each queue; or the shortest remaining time first. A queue is of one
  kind of workers: all of them, or those of one part, or of one bucket. Nobody overtakes its first job.

Deadlines are not looked at; nothing is dropped, paused or batched. B1 is a static whole pipeline, B2 has
buckets, B3 has dynamic degrees, B4 is B3 by remaining time; B5 is split with buckets, B6 is split with
dynamic degrees by remaining time. A whole pipeline is sent to its workers whether or not they have the memory
for it: that is what such a server does, and the job fails.

Source: the baselines of TridentServe (arXiv 2510.02838).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from planner.policies.floor import Floor, Group
from planner.policies.hand_made import HandMade, bucket_of, hand_made
from planner.policies.held import held, moves, noted
from planner.profile import Profile
from planner.state import PlannerState
from planner.types import Effect, JobView, ModelView, Observation, PlannerConfig, Reason, Run


class Degree(enum.Enum):
    """How wide a loop runs."""

    STATIC = enum.auto()
    BUCKETS = enum.auto()
    DYNAMIC = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Its three choices. `split`: parts apart instead of whole pipelines."""

    split: bool = False
    degree: Degree
    shortest_first: bool = False

    def decide(
        self, state: PlannerState, observation: Observation
    ) -> tuple[PlannerState, tuple[Effect, ...]]:
        """Loads and evictions, then runs."""
        state = noted(state, observation)
        made = state.rival
        if not isinstance(made, HandMade) or not made.is_for(observation):
            made = hand_made(
                state.config,
                state.profile,
                observation,
                split=self.split,
                bucketed=self.degree is Degree.BUCKETS,
            )
            state = replace(state, rival=made)
        state = held(state, observation, made.targets, Reason.WORKER_REPLACED)
        placement = state.placement
        if placement is None or not observation.workers:
            return state, ()
        runs: list[Run] = []
        if any(not job.running for job in observation.jobs):
            floor = Floor(placement.stages, observation, made.buckets)
            if not floor.is_empty:
                runs = _Round(self, state, observation, floor, made).runs()
        taken = {name for run in runs for name in run.workers}
        return state, (*runs, *moves(placement, observation, taken))


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "b1": Baseline(degree=Degree.STATIC),
        "b2": Baseline(degree=Degree.BUCKETS),
        "b3": Baseline(degree=Degree.DYNAMIC),
        "b4": Baseline(degree=Degree.DYNAMIC, shortest_first=True),
        "b5": Baseline(split=True, degree=Degree.BUCKETS),
        "b6": Baseline(split=True, degree=Degree.DYNAMIC, shortest_first=True),
    }
)


class _Round:
    """One pass over the waiting jobs."""

    def __init__(
        self,
        baseline: Baseline,
        state: PlannerState,
        observation: Observation,
        floor: Floor,
        made: HandMade,
    ) -> None:
        self._baseline = baseline
        self._config: PlannerConfig = state.config
        self._profile: Profile = state.profile
        self._models: Mapping[str, ModelView] = observation.models
        self._floor = floor
        self._buckets = tuple(sorted({degree for degree in made.buckets.values() if degree}))
        self._devices = sorted({worker.device for worker in observation.workers})
        waiting = [job for job in observation.jobs if not job.running and job.pending]
        self._waiting = [job for job in waiting if job.model in observation.models]

    def runs(self) -> list[Run]:
        """Tasks for the first of each queue, as far as there is room."""
        reason = Reason.SHORTEST_FIRST if self._baseline.shortest_first else Reason.FIRST_COME
        made: list[Run] = []
        full: set[tuple[str, int]] = set()
        for job in self._ordered():
            n, groups = self._floor.able(job)
            if not n:
                # nobody is to run its next stage, and its place in the queue keeps nobody waiting
                continue
            stages = job.pending[:n]
            loops = self._models[job.model].loop_stage in stages
            bucket = bucket_of(self._best_degree(job), self._buckets) if loops and self._buckets else 0
            queue = (self._part(job, stages) if self._baseline.split else "", bucket)
            if queue in full:
                continue
            if bucket:
                groups = [group for group in groups if group.bucket == bucket]
            found = self._place(job, groups, bucket) if loops else _widest(groups, 1, job)
            if found is None:
                full.add(queue)
                if self._floor.is_empty or not (self._baseline.split or self._buckets):
                    break
                continue
            group, node, degree = found
            workers = group.take(node, degree)
            made.append(Run(stages=stages, jobs=(job.job_id,), workers=workers, degree=degree, reason=reason))
        return made

    def _place(self, job: JobView, groups: list[Group], bucket: int) -> tuple[Group, str, int] | None:
        match self._baseline.degree:
            case Degree.STATIC:
                return _widest(groups, self._config.static_degree, job, or_fewer=False)
            case Degree.BUCKETS:
                return _widest(groups, bucket, job, or_fewer=False)
            case Degree.DYNAMIC:
                return _widest(groups, self._best_degree(job), job)

    def _ordered(self) -> list[JobView]:
        if not self._baseline.shortest_first:
            return sorted(self._waiting, key=lambda job: (job.arrived_s, job.job_id))
        known: dict[object, float] = {}

        def left(job: JobView) -> tuple[float, float, str]:
            key = (job.model, job.shape, job.pending, job.steps - job.steps_done)
            if key not in known:
                known[key] = self._left_s(job)
            return known[key], job.arrived_s, job.job_id

        return sorted(self._waiting, key=left)

    def _left_s(self, job: JobView) -> float:
        """What is left of a job at its best degree on the fastest kind of worker; 0 if that is not known."""
        view, degree = self._models[job.model], self._best_degree(job)
        known = [
            seconds
            for device in self._devices
            if (
                seconds := self._profile.job_s(
                    device, view, job.pending, job.shape, job.steps - job.steps_done, degree
                )
            )
            is not None
        ]
        return min(known, default=0.0)

    def _best_degree(self, job: JobView) -> int:
        view = self._models[job.model]
        return max(self._profile.best_degree(device, view, job.shape) for device in self._devices)

    def _part(self, job: JobView, stages: tuple[str, ...]) -> str:
        view = self._models[job.model]
        if view.loop_stage in stages:
            return "D"
        return "E" if view.stages.index(stages[0]) < view.stages.index(view.loop_stage) else "C"


def _widest(
    groups: list[Group], degree: int, job: JobView, *, or_fewer: bool = True
) -> tuple[Group, str, int] | None:
    """Room for `degree` workers or, where they do not offer as many, for the most that they do.

    `or_fewer`: for as many below that as there is room for, if there is none.
    """
    best: tuple[Group, str, int] | None = None
    for group in groups:
        offered = [each for each in group.degrees if each <= degree]
        for wide in sorted(offered or [1], reverse=True):
            if best is not None and wide <= best[2]:
                break
            node = group.node_for(wide, job.node)
            if node is not None:
                best = group, node, wide
                break
            if not or_fewer:
                break
    return best
