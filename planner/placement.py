"""Which stages live on which worker, as a value: what is to be resident where, since when and why.

Co-located everywhere is the choice wherever memory allows it: with everything resident a split gains nothing.
How many workers hold what is found in `planner.search`, when that changes in `planner.monitor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.parts import letters
from planner.types import ModelView, Observation, PlannerConfig, Reason, StageKey

Targets = Mapping[str, frozenset[StageKey]]
"""Worker id -> stages that are to be resident there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """`stages` by worker id, the last change at `changed_s`, of each worker at `since_s`.

    `models`: the names of those that it was said for. `demand_s`: the GPU-seconds a second of each stage that
    were forecast then, of which it serves `rate` times as much; None while nothing was asked for. `homeless`:
    stages for which no worker has room beside what others need, and `impossible` those of them for which none
    has room at all.
    """

    stages: Targets
    changed_s: float
    reason: Reason
    detail: str
    since_s: Mapping[str, float] = field(default_factory=dict)
    models: frozenset[str] = frozenset()
    rate: float | None = None
    demand_s: Mapping[StageKey, float] = field(default_factory=dict)
    homeless: frozenset[StageKey] = frozenset()
    impossible: frozenset[StageKey] = frozenset()


def co_located(
    observation: Observation,
    reason: Reason = Reason.INITIAL_PLACEMENT,
    detail: str = "every stage everywhere",
) -> Placement:
    """Every stage of every model on every worker, whatever fits."""
    every = frozenset((view.model, stage) for view in observation.models.values() for stage in view.stages)
    return _said(
        dict.fromkeys((w.worker_id for w in observation.workers), every), observation, reason, detail
    )


def pinned(observation: Observation, config: PlannerConfig) -> Placement:
    """What the configuration says, for every model."""
    stages = {
        worker.worker_id: frozenset(
            (view.model, stage)
            for view in observation.models.values()
            for stage in view.stages
            if stage in config.pinned.get(worker.worker_id, ())
        )
        for worker in observation.workers
    }
    return _said(stages, observation, Reason.PINNED_PLACEMENT, "pinned by the configuration")


def summary(stages: Targets, models: Mapping[str, ModelView]) -> str:
    """How many workers hold which parts, in one line: "tiny: 2 x EDC, 1 x EC; video: 3 x D"."""
    of_models = []
    for model in sorted(models):
        counts = Counter(letters(models[model], held) for held in stages.values())
        counts.pop("", None)
        told = ", ".join(
            f"{n} x {has}" for has, n in sorted(counts.items(), key=lambda item: (-len(item[0]), item))
        )
        of_models.append(f"{model}: {told or 'nowhere'}")
    return "; ".join(of_models)


def _said(stages: Targets, observation: Observation, reason: Reason, detail: str) -> Placement:
    return Placement(
        stages=stages,
        changed_s=observation.now_s,
        reason=reason,
        detail=detail,
        since_s=dict.fromkeys(stages, observation.now_s),
        models=frozenset(observation.models),
    )
