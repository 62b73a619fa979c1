"""Ours: stages placed by the mix, jobs dispatched by deadline (`planner.dispatch`)."""

from __future__ import annotations

from collections.abc import Callable

from planner.dispatch import dispatched
from planner.placement import Targets
from planner.profile import Profile
from planner.residency import carried_out, idle_moves, urgent_moves
from planner.rooms import sizes_of
from planner.state import PlannerState, advanced
from planner.types import Effect, Observation, Parts, Run, WakeAt

Dispatch = Callable[[Targets, Observation, Profile, Parts], tuple[list[Effect], WakeAt | None]]


def decide(
    state: PlannerState, observation: Observation, dispatch: Dispatch = dispatched
) -> tuple[PlannerState, tuple[Effect, ...]]:
    """Effects are in the order to carry them out: loads that cannot wait with the evictions that make room
    for them, what becomes of jobs, loads and evictions in idle time, then one `WakeAt`.
    """
    state, review_at_s = advanced(state, observation)
    placement = state.placement
    if placement is None:
        return state, ()
    sizes = sizes_of(state.profile, observation, state.forecast.largest)
    urgent = urgent_moves(placement, observation, sizes)
    seen = carried_out(observation, urgent)
    about_jobs, wake = dispatch(placement.stages, seen, state.profile, state.config.parts)
    started = {name for effect in about_jobs if isinstance(effect, Run) for name in effect.workers}
    effects: list[Effect] = [*urgent, *about_jobs, *idle_moves(placement, seen, sizes, started)]
    wakes = [wake] if wake is not None else []
    if review_at_s is not None:
        wakes.append(WakeAt(at_s=review_at_s))
    effects += sorted(wakes, key=lambda one: one.at_s)[:1]
    return state, tuple(effects)
