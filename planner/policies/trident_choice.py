"""TridentServe's Dispatcher: which waiting requests get a group of primaries now, and of how many.

A request that is given a degree of a type is worth 1000 if it is on time then, else what it has aged to, and
a little for each worker that does not idle, less what its type has to hand over:

    maximise  sum of  W - Q(type) + degree,   W = 1000 on time,
              else min(1000, 100 (1 + lateness / t_best)) + degree - 1

with one choice for each request, as many workers as are idle, and only degrees with speed-up / degree >= 0.8.
Lateness is how late it is at its best degree if that begins now, so that it ages alike at every degree.

Workers of one type are one capacity, which makes it a multiple-choice knapsack, solved exactly. Types are
solved in order, V0 first; who got nothing takes part in the next. Groups are then placed inside nodes, the
widest first, and if one does not fit the rest is solved again for what is left: degrees are powers of two, so
only the widest can fail. Nothing is reserved, no running group is changed, and queues of E and C are outside
the deadline.

Source: TridentServe (arXiv 2510.02838); the rewards are those of its published code (PKU-DAIR/Hetu-DiT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.outlook import ROUNDING_S
from planner.parts import replica_type
from planner.policies.floor import Floor, Group
from planner.policies.knapsack import Choice, best_choices
from planner.policies.virtual_replicas import fits, optimal_type
from planner.profile import GOOD_EFFICIENCY, Profile
from planner.types import JobView, ModelView, Observation

ON_TIME = 1000.0
AGEING = 100.0
"""What a late request is worth at first, and again for each best latency that it is late."""

BUSY = 1.0
"""What a worker that does not idle is worth: it decides between equals only."""

HANDED_OVER: Mapping[str, float] = {"V0": 0.0, "V1": 0.1, "V2": 0.2, "V3": 0.3}
"""What a type's hand-overs cost: less than any worker is worth, so that they decide between equals too."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The next stages of a request, as many as its primaries hold, and the group for them."""

    job: JobView
    stages: tuple[str, ...]
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds that are left of a request by degree; `best_s`: at its best one."""

    by_degree: tuple[tuple[int, float], ...]
    best_s: float


class Dispatcher:
    """Of one moment. What it gives away is not idle in `floor` any more."""

    def __init__(self, floor: Floor, observation: Observation, profile: Profile) -> None:
        self._floor = floor
        self._profile = profile
        self._models = observation.models
        self._now_s = observation.now_s
        self._times: dict[object, _Times] = {}

    def chosen(self, waiting: Sequence[JobView]) -> list[Chosen]:
        """Of the `waiting` requests, each of which has its loop ahead; earlier ones first among equals."""
        made: list[Chosen] = []
        left = sorted(waiting, key=lambda job: (job.arrived_s, job.job_id))
        for number, names, groups in self._pools():
            while left:
                round_ = self._solved(left, number, names, groups)
                made += round_
                gone = {one.job.job_id for one in round_}
                n_before, left = len(left), [job for job in left if job.job_id not in gone]
                if len(left) == n_before or not any(group.widest for group in groups):
                    break
        return made

    def value(self, job: JobView, degree: int, seconds: float, best_s: float, kind: str) -> float:
        """What it is worth to give `job` that `degree`, at which it takes `seconds`, of type `kind`."""
        if self._now_s + seconds <= job.deadline_s + ROUNDING_S:
            reward = ON_TIME
        else:
            late_s = max(0.0, self._now_s + best_s - job.deadline_s)
            aged = AGEING * (1 + late_s / best_s) if best_s > 0 else ON_TIME
            reward = min(ON_TIME, aged) + degree - 1
        return reward + BUSY * degree - HANDED_OVER[kind]

    def _pools(self) -> list[tuple[str, frozenset[str], list[Group]]]:
        """Idle primaries by type and by the models that they hold the loop of."""
        found: dict[tuple[str, frozenset[str]], list[Group]] = {}
        for group in self._floor.groups:
            types = {
                name: kind
                for name, view in self._models.items()
                if (kind := replica_type(view, group.usable)) is not None
            }
            if types and group.widest:
                found.setdefault((min(types.values()), frozenset(types)), []).append(group)
        return [(kind, names, groups) for (kind, names), groups in sorted(found.items(), key=_pool_order)]

    def _solved(
        self, jobs: Sequence[JobView], kind: str, names: frozenset[str], groups: Sequence[Group]
    ) -> list[Chosen]:
        widest = max(group.widest for group in groups)
        capacity = sum(len(ids) for group in groups for ids in group.idle.values())
        able: list[JobView] = []
        items: list[list[Choice]] = []
        for job in jobs:
            if job.model not in names or _stages(job, self._models[job.model], groups[0]) is None:
                continue
            times = self._times_of(job, groups[0])
            choices = [
                (degree, self.value(job, degree, seconds, times.best_s, kind))
                for degree, seconds in times.by_degree
                if degree <= widest
            ]
            if choices:
                able.append(job)
                items.append(choices)
        sizes = best_choices(items, capacity)
        taken = [(size, job) for size, job in zip(sizes, able, strict=True) if size is not None]
        made = []
        for degree, job in sorted(taken, key=lambda one: -one[0]):
            for group in groups:
                node = group.node_for(degree, job.node)
                stages = _stages(job, self._models[job.model], group)
                if node is not None and stages is not None:
                    made.append(Chosen(job, stages, group.take(node, degree)))
                    break
        return made

    def _times_of(self, job: JobView, group: Group) -> _Times:
        key = (job.model, job.shape, job.pending, job.steps - job.steps_done, id(group))
        if key not in self._times:
            self._times[key] = self._made_times(job, group)
        return self._times[key]

    def _made_times(self, job: JobView, group: Group) -> _Times:
        """By the degrees that are offered, efficient, and for which there is room."""
        view, profile, device = self._models[job.model], self._profile, group.device
        steps = job.steps - job.steps_done
        alone_s = profile.stage_s(device, view, view.loop_stage, job.shape, steps)
        alone_left_s = profile.job_s(device, view, job.pending, job.shape, steps)
        if alone_s is None or alone_left_s is None:
            # not known yet: run it on one worker, which will tell
            return _Times(((1, 0.0),), 0.0)
        bound = group.memory_bytes
        fails = bound is not None and optimal_type(view, job.shape, profile, device, bound) is None
        stages = [stage for stage in view.stages if (view.model, stage) in group.usable]
        room = None if bound is None else bound - self._weights_of_others(view, group)
        found = []
        efficient = []
        for degree in group.degrees:
            loop_s = profile.stage_s(device, view, view.loop_stage, job.shape, steps, degree=degree)
            left_s = profile.job_s(device, view, job.pending, job.shape, steps, degree)
            if loop_s is None or left_s is None or alone_s < (GOOD_EFFICIENCY - 1e-9) * degree * loop_s:
                continue
            efficient.append(left_s)
            if fails or fits(view, stages, job.shape, profile, device, room, degree):
                found.append((degree, left_s))
        return _Times(tuple(found), min(efficient, default=alone_left_s))

    def _weights_of_others(self, view: ModelView, group: Group) -> int:
        return sum(
            self._models[model].weight_bytes.get(stage, 0)
            for model, stage in group.usable
            if model != view.model and model in self._models
        )


def _stages(job: JobView, view: ModelView, group: Group) -> tuple[str, ...] | None:
    """The next stages of the job that such a worker holds; None if its loop is not among them."""
    n = 0
    while n < len(job.pending) and (job.model, job.pending[n]) in group.usable:
        n += 1
    stages = job.pending[:n]
    return stages if view.loop_stage in stages else None


def _pool_order(pool: tuple[tuple[str, frozenset[str]], list[Group]]) -> tuple[str, list[str]]:
    (kind, names), _ = pool
    return kind, sorted(names)
