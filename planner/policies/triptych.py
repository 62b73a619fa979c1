"""Ours: stages placed by the mix, jobs dispatched by deadline (`planner.dispatch`)."""

from __future__ import annotations

from collections.abc import Callable

from planner.dispatch import dispatched
from planner.placement import Targets, targets_of
from planner.profile import Profile
from planner.residency import evictions, loads
from planner.state import PlannerState, advanced
from planner.types import Effect, Observation, Parts, WakeAt

Dispatch = Callable[[Targets, Observation, Profile, Parts], tuple[list[Effect], WakeAt | None]]


def decide(
    state: PlannerState, observation: Observation, dispatch: Dispatch = dispatched
) -> tuple[PlannerState, tuple[Effect, ...]]:
    """Effects are in the order to carry them out: what becomes of jobs, loads, evictions, then one `WakeAt`.

    Runs come first so that a load asked for in the same call queues behind them and not before.
    """
    state, review_at_s = advanced(state, observation)
    if state.placement is None:
        return state, ()
    targets = targets_of(state.placement, state.config, observation.models)
    about_jobs, wake = dispatch(targets, observation, state.profile, state.config.parts)
    effects: list[Effect] = [
        *about_jobs,
        *loads(state.placement, targets, observation),
        *evictions(state.placement, targets, observation),
    ]
    wakes = [wake] if wake is not None else []
    if review_at_s is not None:
        wakes.append(WakeAt(at_s=review_at_s))
    effects += sorted(wakes, key=lambda one: one.at_s)[:1]
    return state, tuple(effects)
