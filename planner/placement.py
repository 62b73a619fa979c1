"""Which stages live on which worker: roles, and what a role means for the models that are served.

A role is the same for all models: a worker that denoises holds every model's loop stage. Co-located is every
worker in the role EVERY, which is also the only placement of a single worker. A split gives every worker LOOP
or REST with at least one of each, so that every stage of every model has a home.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.types import ModelView, PlannerConfig, Reason, StageKey, WorkerView

Targets = Mapping[str, frozenset[StageKey]]
"""Worker id -> stages that are to be resident there."""


class Role(enum.StrEnum):
    """Which stages a worker holds: all, the loop, all but the loop, or what the configuration says."""

    EVERY = "every"
    LOOP = "loop"
    REST = "rest"
    PINNED = "pinned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`roles` by worker id, since `changed_s`. `share`: the loop's part that they came from, if any.

    `models`: the names of those that it was last said for.
    """

    roles: Mapping[str, Role]
    changed_s: float
    reason: Reason
    detail: str
    share: float | None = None
    models: frozenset[str] = frozenset()

    @property
    def n_loop(self) -> int:
        """How many workers run the loop stage."""
        return sum(role is not Role.REST for role in self.roles.values())


def n_loop_workers(share: float, n_workers: int) -> int:
    """Workers for the loop stage when it takes `share` of the GPU-seconds: rounded, in [1, n_workers].

    Source: TridentServe (arXiv 2510.02838); here by share of observed GPU-seconds instead of request counts.
    """
    return max(1, min(n_workers, math.floor(share * n_workers + 0.5)))


def assign_roles(
    n_loop: int, workers: Sequence[WorkerView], models: Mapping[str, ModelView]
) -> dict[str, Role]:
    """Roles with `n_loop` workers on the loop; REST goes where it costs the fewest loads, then by id."""
    if n_loop >= len(workers):
        return {worker.worker_id: Role.EVERY for worker in workers}

    def extra_loads(worker: WorkerView) -> int:
        held = worker.resident | worker.loading
        return len(_stages(Role.REST, models) - held) - len(_stages(Role.LOOP, models) - held)

    ordered = sorted(workers, key=lambda worker: (extra_loads(worker), worker.worker_id))
    n_rest = len(workers) - n_loop
    return {w.worker_id: Role.REST if place < n_rest else Role.LOOP for place, w in enumerate(ordered)}


def targets_of(placement: Placement, config: PlannerConfig, models: Mapping[str, ModelView]) -> Targets:
    """What each placed worker is to hold of `models`."""
    return {
        worker: _stages(role, models, config.pinned.get(worker, ()))
        for worker, role in placement.roles.items()
    }


def _stages(role: Role, models: Mapping[str, ModelView], pinned: Iterable[str] = ()) -> frozenset[StageKey]:
    def held(model: ModelView, stage: str) -> bool:
        match role:
            case Role.EVERY:
                return True
            case Role.LOOP:
                return stage == model.loop_stage
            case Role.REST:
                return stage != model.loop_stage
            case Role.PINNED:
                return stage in pinned

    return frozenset(
        (model.model, stage) for model in models.values() for stage in model.stages if held(model, stage)
    )
