"""How a fleet is set up by hand, before the first job: who holds what, and which group a worker is of.

*Whole*: every stage of every model everywhere, whether or not it fits. *Split*: each worker has the stages
before the loops (E), the loops (D) or those behind them (C); the workers' shares are those of the parts in
the GPU-seconds of an even mix of the expected jobs, each loop at its best degree k*. With fewer than three
workers some have several parts.

*Buckets*: the workers with loops are put together in groups by degree, inside a node; the workers of a degree
are the share that jobs with that k* have in the same GPU-seconds. Whoever is left over is in a group of its
own, if there are such groups, or has nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.ground import PRIOR
from planner.placement import Targets
from planner.policies.even_mix import Work, apportioned, even_mix, grouped
from planner.profile import Profile
from planner.types import ModelView, Observation, PlannerConfig, StageKey, WorkerView

LETTERS = "EDC"


@dataclass(frozen=True, slots=True)
class HandMade:
    """By worker id: the stages that it is to hold, and the degree of the groups that it is in, 0 for none."""

    targets: Targets
    models: frozenset[str]
    buckets: Mapping[str, int] = field(default_factory=dict)

    def is_for(self, observation: Observation) -> bool:
        """Whether it says something of every live worker, and of these models."""
        return self.models == observation.models.keys() and all(
            worker.worker_id in self.targets for worker in observation.workers
        )


def hand_made(
    config: PlannerConfig, profile: Profile, observation: Observation, *, split: bool, bucketed: bool
) -> HandMade:
    """For the workers that there are now."""
    workers = sorted(observation.workers, key=lambda worker: (worker.node, worker.worker_id))
    mix = even_mix(config, profile, observation)
    roles = _roles(len(workers), mix) if split else [LETTERS] * len(workers)
    stages = {role: _stages(role, observation.models) for role in set(roles)}
    targets = {worker.worker_id: stages[role] for worker, role in zip(workers, roles, strict=True)}
    looping = [worker for worker, role in zip(workers, roles, strict=True) if "D" in role]
    buckets = _buckets(looping, mix, split=split) if bucketed else {}
    return HandMade(targets, frozenset(observation.models), buckets)


def bucket_of(degree: int, there_are: Sequence[int]) -> int:
    """The degree of the group for a job of that k*: the same, else the next smaller one, else the least."""
    return max((each for each in there_are if each <= degree), default=min(there_are, default=0))


def _roles(n: int, mix: Sequence[Work]) -> list[str]:
    """The loops have the first workers, so that their groups fill whole nodes."""
    if n < len(LETTERS):
        return [["EDC"], ["D", "EC"]][n - 1] if n else []
    seconds = {
        "D": sum(work.diffuse_s for work in mix) or PRIOR["D"],
        "C": sum(work.decode_s for work in mix) or PRIOR["C"],
        "E": sum(work.encode_s for work in mix) or PRIOR["E"],
    }
    if not mix:
        seconds = {letter: PRIOR[letter] for letter in seconds}
    counts = apportioned(n, list(seconds.values()))
    return [letter for letter, count in zip(seconds, counts, strict=True) for _ in range(count)]


def _stages(role: str, models: Mapping[str, ModelView]) -> frozenset[StageKey]:
    held = set()
    for name, view in models.items():
        at = view.stages.index(view.loop_stage)
        parts = {"E": view.stages[:at], "D": view.stages[at : at + 1], "C": view.stages[at + 1 :]}
        held |= {(name, stage) for letter in role for stage in parts[letter]}
    return frozenset(held)


def _buckets(workers: Sequence[WorkerView], mix: Sequence[Work], *, split: bool) -> dict[str, int]:
    nodes: dict[str, list[str]] = {}
    for worker in workers:
        nodes.setdefault(worker.node, []).append(worker.worker_id)
    widest = max(map(len, nodes.values()), default=1)
    offered = {degree for worker in workers for degree in worker.degrees if degree <= widest} | {1}
    weights: dict[int, float] = {}
    for work in mix:
        degree = max(each for each in offered if each <= work.degree)
        weights[degree] = weights.get(degree, 0.0) + (work.diffuse_s if split else work.total_s)
    groups = grouped(len(workers), weights or {1: 1.0})
    buckets: dict[str, int] = {}
    for degree in sorted(groups, reverse=True):
        for _ in range(groups[degree]):
            fitting = [(len(ids), node) for node, ids in nodes.items() if len(ids) >= degree]
            if not fitting:
                break
            ids = nodes[min(fitting)[1]]
            buckets.update(dict.fromkeys(ids[:degree], degree))
            del ids[:degree]
    if 1 in groups:
        buckets.update({name: 1 for ids in nodes.values() for name in ids})
    return buckets
