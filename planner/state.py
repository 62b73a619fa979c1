"""What the planner remembers from one decision to the next, and the part of it that every policy shares."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from planner.mix import Mix
from planner.placement import Placement
from planner.profile import Profile
from planner.review import reviewed
from planner.types import Observation, PlannerConfig


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


def advanced(state: PlannerState, observation: Observation) -> tuple[PlannerState, float | None]:
    """The state after what ended since the last call, placed anew if that is due.

    Also when to look at the placement again if only time is missing for a change.
    """
    mix = state.mix.advanced(observation.finished, observation.now_s)
    placement, review_at_s = reviewed(state.placement, mix, observation, state.config)
    profile = state.profile.with_samples(observation.finished)
    return replace(state, mix=mix, profile=profile, placement=placement), review_at_s
