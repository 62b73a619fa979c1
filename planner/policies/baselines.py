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
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

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


class _Kind(NamedTuple):
    """What jobs of one model, shape and progress have in common. `degree`: of their loop, k* or their bucket.

    The next `stages` of them are one task, which `groups` of idle workers could run, `n_idle` in all.
    """

    stages: tuple[str, ...]
    groups: list[Group]
    n_idle: int
    loops: bool
    degree: int
    queue: tuple[str, int]
    left_s: float


class _Round:
    """One pass over the waiting jobs. Few kinds, many jobs: each kind is worked out once."""

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
        self._jobs = observation.jobs
        self._floor = floor
        self._buckets = tuple(sorted({degree for degree in made.buckets.values() if degree}))
        self._devices = sorted({worker.device for worker in observation.workers})
        self._kinds: dict[object, _Kind] = {}

    def runs(self) -> list[Run]:
        """Tasks for the first of each queue, as far as there is room."""
        reason = Reason.SHORTEST_FIRST if self._baseline.shortest_first else Reason.FIRST_COME
        made: list[Run] = []
        for jobs in self._queues():
            for job in jobs:
                kind = self._kind(job)
                if not kind.stages:
                    # nobody is to run its next stage, and its place in the queue keeps nobody waiting
                    continue
                found = self._place(job, kind)
                if found is None:
                    break
                group, node, degree = found
                made.append(
                    Run(
                        stages=kind.stages,
                        jobs=(job.job_id,),
                        workers=group.take(node, degree),
                        degree=degree,
                        reason=reason,
                    )
                )
        return made

    def _queues(self) -> list[list[JobView]]:
        """The waiting jobs of every queue that has idle workers, by precedence as far as they could start."""
        waiting = [job for job in self._jobs if not job.running and job.model in self._models]
        if not (self._baseline.split or self._buckets):
            return [self._ordered(waiting)]
        queues: dict[tuple[str, int], list[JobView]] = {}
        for job in waiting:
            kind = self._kind(job)
            if kind.n_idle:
                queues.setdefault(kind.queue, []).append(job)
        return [self._ordered(jobs) for _, jobs in sorted(queues.items())]

    def _ordered(self, jobs: list[JobView]) -> list[JobView]:
        if not self._baseline.shortest_first:
            return sorted(jobs, key=attrgetter("arrived_s", "job_id"))
        able = [job for job in jobs if self._kind(job).stages]
        return heapq.nsmallest(self._floor.n_idle, able, key=self._remaining)

    def _place(self, job: JobView, kind: _Kind) -> tuple[Group, str, int] | None:
        if not kind.loops:
            return _widest(kind.groups, 1, job)
        match self._baseline.degree:
            case Degree.STATIC:
                return _widest(kind.groups, self._config.static_degree, job, or_fewer=False)
            case Degree.BUCKETS:
                return _widest(kind.groups, kind.degree, job, or_fewer=False)
            case Degree.DYNAMIC:
                return _widest(kind.groups, kind.degree, job)

    def _remaining(self, job: JobView) -> tuple[float, float, str]:
        return self._kind(job).left_s, job.arrived_s, job.job_id

    def _kind(self, job: JobView) -> _Kind:
        # shapes by identity: to hash one costs more than all else here, and equal ones only mean a kind twice
        key = (job.model, id(job.shape), job.pending, job.steps - job.steps_done)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._made_kind(job)
        return kind

    def _made_kind(self, job: JobView) -> _Kind:
        view = self._models[job.model]
        n, groups = self._floor.able(job)
        stages = job.pending[:n]
        best = degree = max(self._profile.best_degree(device, view, job.shape) for device in self._devices)
        loops = view.loop_stage in stages
        bucket = bucket_of(best, self._buckets) if loops else 0
        if bucket:
            degree, groups = bucket, [group for group in groups if group.bucket == bucket]
        n_idle = sum(len(ids) for group in groups for ids in group.idle.values())
        queue = (_part(view, stages) if self._baseline.split and stages else "", bucket)
        return _Kind(stages, groups, n_idle, loops, degree, queue, self._left_s(job, view, best))

    def _left_s(self, job: JobView, view: ModelView, degree: int) -> float:
        """What is left of a job at its best degree on the fastest kind of worker; 0 if that is not known."""
        steps = job.steps - job.steps_done
        known = [
            seconds
            for device in self._devices
            if (seconds := self._profile.job_s(device, view, job.pending, job.shape, steps, degree))
            is not None
        ]
        return min(known, default=0.0)


def _part(view: ModelView, stages: tuple[str, ...]) -> str:
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
