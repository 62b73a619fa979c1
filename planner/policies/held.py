"""What a rival shares with ours: learning from what ended, and a placement that is loaded as it stands.

No rules for when to change it live here: each rival brings the stages that its workers are to hold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from planner.placement import Placement, Targets, pinned, summary
from planner.state import PlannerState
from planner.types import Evict, Load, ModelView, Observation, Reason, StageKey, WorkerView


def noted(state: PlannerState, observation: Observation) -> PlannerState:
    """The state after what came and ended since the last call."""
    forecast = state.forecast.advanced(observation.jobs, observation.now_s)
    profile = state.profile.with_samples(observation.finished)
    if forecast is state.forecast and profile is state.profile:
        return state
    return replace(state, forecast=forecast, profile=profile)


def held(state: PlannerState, observation: Observation, targets: Targets, reason: Reason) -> PlannerState:
    """The state with `targets` as its placement, or with the pinned one if there is one.

    Workers that are not live are left out. The placement stays the same object while it says the same.
    """
    before = state.placement
    if state.config.pinned:
        targets, reason = pinned(observation, state.config).stages, Reason.PINNED_PLACEMENT
    elif before is None:
        reason = Reason.INITIAL_PLACEMENT
    stages = {worker.worker_id: targets[worker.worker_id] for worker in observation.workers}
    if before is not None and before.stages == stages and before.models == observation.models.keys():
        return state
    now = Placement(
        stages=stages,
        changed_s=observation.now_s,
        reason=reason,
        detail=summary(stages, observation.models),
        since_s=dict.fromkeys(stages, observation.now_s),
        models=frozenset(observation.models),
    )
    return replace(state, review=replace(state.review, placement=now))


def moves(placement: Placement, observation: Observation, taken: Collection[str] = ()) -> list[Load | Evict]:
    """Loads of all that workers are to hold and have not, at once, with room made by what they are not to.

    Whether it fits is not asked: what does not fails to load. Of the workers that hold something already
    half go on serving. `taken`: workers that something was just sent to.
    """
    targets = placement.stages
    wanting = [worker for worker in observation.workers if not targets[worker.worker_id] <= worker.resident]
    if not wanting:
        return []
    n_loading = sum(1 for worker in observation.workers if worker.loading)
    n_allowed = max(1, len(observation.workers) // 2) - n_loading
    made: list[Load | Evict] = []
    for worker in sorted(wanting, key=lambda worker: worker.worker_id):
        missing = targets[worker.worker_id] - worker.resident - worker.loading - worker.failed
        if not missing or worker.worker_id in taken:
            continue
        if worker.resident:
            if n_allowed <= 0:
                continue
            n_allowed -= 1
        if worker.memory_bytes is not None:
            made += evicted(
                worker, worker.resident - targets[worker.worker_id], observation.models, placement
            )
        made += loaded(worker, missing, observation.models, placement)
    return made


def evicted(
    worker: WorkerView, keys: frozenset[StageKey], models: Mapping[str, ModelView], why: Placement
) -> list[Evict]:
    """Drop `keys` but for those that its task still needs."""
    if worker.task is not None:
        keys -= {(worker.task.model, stage) for stage in worker.task.pending}
    return [
        Evict(worker=worker.worker_id, model=model, stages=stages, reason=why.reason, detail=why.detail)
        for model, stages in _by_model(keys, models)
    ]


def loaded(
    worker: WorkerView, keys: frozenset[StageKey], models: Mapping[str, ModelView], why: Placement
) -> list[Load]:
    """Make `keys` resident there."""
    return [
        Load(worker=worker.worker_id, model=model, stages=stages, reason=why.reason, detail=why.detail)
        for model, stages in _by_model(keys, models)
    ]


def _by_model(
    keys: frozenset[StageKey], models: Mapping[str, ModelView]
) -> list[tuple[str, tuple[str, ...]]]:
    """By model, in the order of its stages; what no model has is left out."""
    found = (
        (name, tuple(stage for stage in models[name].stages if (name, stage) in keys))
        for name in sorted(models)
    )
    return [(name, stages) for name, stages in found if stages]
