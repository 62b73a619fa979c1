"""TridentServe's Dispatcher: which waiting requests get a group of primaries now, and of how many.

    maximise  the sum of what requests are worth at their degrees (`planner.policies.trident_worth`)
    with      one choice for each request, and no more workers than are idle

Workers of one type are one capacity, which makes it a multiple-choice knapsack, solved exactly. Of equal
solutions it is the one with the earliest deadlines. Of requests that are worth the same at every degree no
more are looked at than there are workers, and neither of lost ones of one kind, of which the first due is
worth most: that changes nothing. Types are solved in order, V0 first; who got nothing takes part in the next.

Groups are then placed inside nodes, the widest first. If one does not fit the rest is solved again for what
is left. Nothing is reserved, no running group is changed, and queues of E and C are outside the deadline.

Source: TridentServe (arXiv 2510.02838).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from planner.parts import replica_type
from planner.policies.floor import Floor, Group
from planner.policies.knapsack import Choice, best_choices
from planner.policies.trident_worth import Kind, Kinds
from planner.profile import Profile
from planner.types import JobView, Observation


@dataclass(frozen=True, slots=True)
class Chosen:
    """The next stages of a request, as many as its primaries hold, and the group for them."""

    job: JobView
    stages: tuple[str, ...]
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pool:
    """Idle primaries of one type. `models`: those that they hold the loop of."""

    replica: str
    models: frozenset[str]
    groups: list[Group]

    @property
    def n_idle(self) -> int:
        return sum(len(ids) for group in self.groups for ids in group.idle.values())

    @property
    def widest(self) -> int:
        return max(group.widest for group in self.groups)


class Dispatcher:
    """Of one moment. What it gives away is not idle in `floor` any more."""

    def __init__(self, floor: Floor, observation: Observation, profile: Profile) -> None:
        self._floor = floor
        self._models = observation.models
        self._now_s = observation.now_s
        self._kinds = Kinds(observation, profile)

    def chosen(self, waiting: Sequence[JobView]) -> list[Chosen]:
        """Of the `waiting` requests, each of which has its loop ahead."""
        made: list[Chosen] = []
        left = sorted(waiting, key=attrgetter("deadline_s", "arrived_s", "job_id"))
        for pool in self._pools():
            while left and pool.widest:
                placed = self._solved(left, pool)
                if not placed:
                    break
                made += placed
                gone = {one.job.job_id for one in placed}
                left = [job for job in left if job.job_id not in gone]
        return made

    def _pools(self) -> list[_Pool]:
        found: dict[tuple[str, tuple[str, ...]], list[Group]] = {}
        for group in self._floor.groups:
            types = {
                name: replica
                for name, view in self._models.items()
                if (replica := replica_type(view, group.usable)) is not None
            }
            if types and group.widest:
                found.setdefault((min(types.values()), tuple(sorted(types))), []).append(group)
        return [
            _Pool(replica, frozenset(names), groups) for (replica, names), groups in sorted(found.items())
        ]

    def _solved(self, jobs: Sequence[JobView], pool: _Pool) -> list[Chosen]:
        n_idle, widest = pool.n_idle, pool.widest
        able: list[tuple[JobView, Kind]] = []
        items: list[list[Choice]] = []
        n_alike: dict[tuple[int, int], int] = {}
        for job in jobs:
            kind = self._kinds.of(job, pool.groups[0], pool.replica) if job.model in pool.models else None
            if kind is None:
                continue
            slack_s = job.deadline_s - self._now_s
            alike = (id(kind), kind.n_on_time(slack_s))
            n = n_alike[alike] = n_alike.get(alike, 0) + 1
            if n > n_idle:
                continue
            choices = [choice for choice in kind.choices(slack_s) if choice[0] <= widest]
            if choices:
                able.append((job, kind))
                items.append(choices)
        sizes = best_choices(items, n_idle)
        taken = [(size, *one) for size, one in zip(sizes, able, strict=True) if size is not None]
        made = []
        for degree, job, kind in sorted(taken, key=lambda one: -one[0]):
            for group in pool.groups:
                node = group.node_for(degree, job.node)
                if node is not None:
                    made.append(Chosen(job, kind.stages, group.take(node, degree)))
                    break
        return made
