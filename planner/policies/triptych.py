"""Ours: stages placed by the observed mix, jobs dispatched by deadline."""

from __future__ import annotations

from planner.dispatch import runs
from planner.placement import targets_of
from planner.residency import evictions, loads
from planner.state import PlannerState, advanced
from planner.types import Effect, Observation, WakeAt


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """Effects are in the order to carry them out: runs, loads, evictions, then one `WakeAt`.

    Runs come first so that a load asked for in the same call queues behind them and not before.
    """
    state, review_at_s = advanced(state, observation)
    if state.placement is None:
        return state, ()
    targets = targets_of(state.placement, state.config, observation.models)
    effects: list[Effect] = [
        *runs(targets, observation),
        *loads(state.placement, targets, observation),
        *evictions(state.placement, targets, observation),
    ]
    if review_at_s is not None:
        effects.append(WakeAt(at_s=review_at_s))
    return state, tuple(effects)
