"""From a target placement to loads and evictions.

A worker takes a load behind its running task and takes no task behind the load until it has ended, which may
be minutes. So loads are asked for at once except where that would leave a stage that runs now only on workers
that load: those go one after the other. Evictions wait until the stages have another home that is ready, so a
placement change never leaves a stage that ran before without a worker.
"""

from __future__ import annotations

from collections.abc import Iterable

from planner.placement import Placement, Targets
from planner.types import Evict, Load, ModelView, Observation, StageKey, WorkerView


def loads(placement: Placement, targets: Targets, observation: Observation) -> list[Load]:
    """One `Load` per worker and model for target stages that are neither resident nor loading, nor failed."""
    effects = []
    loading = {worker.worker_id for worker in observation.workers if worker.is_held_up}
    for worker in _by_id(observation.workers):
        missing = targets[worker.worker_id] - worker.resident - worker.loading - worker.failed
        if not missing or _is_needed(worker, loading, targets, observation.workers):
            continue
        loading.add(worker.worker_id)
        for model in observation.models.values():
            stages = _in_order(model, missing)
            if stages:
                effects.append(
                    Load(
                        worker=worker.worker_id,
                        model=model.model,
                        stages=stages,
                        reason=placement.reason,
                        detail=placement.detail,
                    )
                )
    return effects


def evictions(placement: Placement, targets: Targets, observation: Observation) -> list[Evict]:
    """One `Evict` per worker and model, for all its stages that have no place there, or none of them yet.

    It is said once each of them is resident on a worker whose target holds it and the worker's running task
    needs none of them. Stages that no target holds stay: pending jobs may have nowhere else to go.
    """
    homes = homes_of(targets, observation.workers)
    effects = []
    for worker in _by_id(observation.workers):
        unplaced = worker.resident - targets[worker.worker_id]
        for model in observation.models.values():
            stages = _in_order(model, unplaced)
            keys = {(model.model, stage) for stage in stages}
            if stages and keys <= homes and not keys & _needed(worker):
                effects.append(
                    Evict(
                        worker=worker.worker_id,
                        model=model.model,
                        stages=stages,
                        reason=placement.reason,
                        detail=placement.detail,
                    )
                )
    return effects


def homes_of(targets: Targets, workers: Iterable[WorkerView]) -> frozenset[StageKey]:
    """The stages that are resident on at least one worker whose target holds them."""
    return frozenset(key for worker in workers for key in worker.resident & targets[worker.worker_id])


def _is_needed(
    worker: WorkerView, loading: set[str], targets: Targets, workers: Iterable[WorkerView]
) -> bool:
    """Whether all other homes of one of its stages load already. A stage without another home cannot wait."""
    homes = {other.worker_id: other.resident & targets[other.worker_id] for other in workers}
    for key in homes.pop(worker.worker_id):
        others = {name for name, held in homes.items() if key in held}
        if others and others <= loading:
            return True
    return False


def _by_id(workers: Iterable[WorkerView]) -> list[WorkerView]:
    return sorted(workers, key=lambda worker: worker.worker_id)


def _in_order(model: ModelView, keys: frozenset[StageKey]) -> tuple[str, ...]:
    return tuple(stage for stage in model.stages if (model.model, stage) in keys)


def _needed(worker: WorkerView) -> set[StageKey]:
    return {(worker.task.model, stage) for stage in worker.task.pending} if worker.task else set()
