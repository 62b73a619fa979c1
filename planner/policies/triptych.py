"""Ours: stages placed by the mix, jobs dispatched by deadline (`planner.dispatch`)."""

from __future__ import annotations

from collections.abc import Callable

from planner.dispatch import dispatched
from planner.placement import Placement, Targets
from planner.profile import Profile
from planner.residency import carried_out, idle_moves, urgent_moves
from planner.rooms import sizes_of
from planner.state import PlannerState, advanced
from planner.types import Effect, Observation, Parts, Run, WakeAt

Dispatch = Callable[[Targets, Observation, Profile, Parts], tuple[list[Effect], WakeAt | None]]


def decide(
    state: PlannerState, observation: Observation, dispatch: Dispatch | None = None
) -> tuple[PlannerState, tuple[Effect, ...]]:
    """Effects are in the order to carry them out: loads that cannot wait with the evictions that make room
    for them, what becomes of jobs, loads and evictions in idle time, then one `WakeAt`.

    `dispatch`: what to do about jobs, if not ours.
    """
    state, review_at_s = advanced(state, observation)
    placement = state.placement
    if placement is None:
        return state, ()
    roster = state.roster
    roster.see(placement.stages, observation)
    if roster.is_settled:
        about_jobs, wake = _dispatched(state, placement, observation, dispatch)
        effects = about_jobs
    else:
        sizes = sizes_of(state.profile, observation, state.forecast.largest)
        urgent = urgent_moves(placement, observation, sizes)
        seen = carried_out(observation, urgent)
        about_jobs, wake = _dispatched(state, placement, seen, dispatch)
        started = {name for effect in about_jobs if isinstance(effect, Run) for name in effect.workers}
        effects = [*urgent, *about_jobs, *idle_moves(placement, seen, sizes, started)]
    wakes = [wake] if wake is not None else []
    if review_at_s is not None:
        wakes.append(WakeAt(at_s=review_at_s))
    effects += sorted(wakes, key=lambda one: one.at_s)[:1]
    return state, tuple(effects)


def _dispatched(
    state: PlannerState, placement: Placement, seen: Observation, dispatch: Dispatch | None
) -> tuple[list[Effect], WakeAt | None]:
    if dispatch is None:
        return dispatched(
            placement.stages,
            seen,
            state.profile,
            state.config.parts,
            state.roster,
            placement.impossible,
        )
    return dispatch(placement.stages, seen, state.profile, state.config.parts)
