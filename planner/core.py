"""The planner's one entry: `decide(state, observation) -> (state, effects)`.

It reads no clock and draws no lots: the same state and observation always give the same effects, in the same
order. The caller carries the state from call to call and keeps the effects it carried out visible in the next
observation (see `planner.types`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from planner.dispatch import runs
from planner.mix import Mix
from planner.placement import Placement, targets_of
from planner.profile import Profile
from planner.residency import evictions, loads
from planner.review import reviewed
from planner.types import Effect, Observation, PlannerConfig, WakeAt


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerState:
    """All that the planner remembers. `placement` is None until the first worker was seen."""

    config: PlannerConfig
    mix: Mix
    profile: Profile = field(default_factory=Profile)
    placement: Placement | None = None


def initial_state(config: PlannerConfig, profile: Profile | None = None) -> PlannerState:
    """A planner that has seen nothing, or only a `profile` kept from an earlier run."""
    return PlannerState(
        config=config, mix=Mix(config.mix_window_s, config.min_samples), profile=profile or Profile()
    )


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """What to do now. Effects are in the order to carry them out: runs, loads, evictions, then one `WakeAt`.

    Runs come first so that a load asked for in the same call queues behind them and not before.
    """
    mix = state.mix.advanced(observation.finished, observation.now_s)
    placement, review_at_s = reviewed(state.placement, mix, observation, state.config)
    state = replace(
        state, mix=mix, profile=state.profile.with_samples(observation.finished), placement=placement
    )
    if placement is None:
        return state, ()
    targets = targets_of(placement, state.config, observation.models)
    effects: list[Effect] = [
        *runs(targets, observation),
        *loads(placement, targets, observation),
        *evictions(placement, targets, observation),
    ]
    if review_at_s is not None:
        effects.append(WakeAt(at_s=review_at_s))
    return state, tuple(effects)
