"""What the planner remembers from one decision to the next, and the part of it that every policy shares."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from planner.forecast import Forecast
from planner.monitor import Review, reviewed
from planner.placement import Placement
from planner.profile import Profile
from planner.roster import Roster
from planner.types import Observation, PlannerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerState:
    """All that the planner remembers. `rival`: what another policy than ours keeps for itself.

    `roster` only saves time: no decision depends on it.
    """

    config: PlannerConfig
    forecast: Forecast
    profile: Profile = field(default_factory=Profile)
    review: Review = field(default_factory=Review)
    rival: object = None
    roster: Roster = field(default_factory=Roster, compare=False, repr=False)

    @property
    def placement(self) -> Placement | None:
        """None until the first worker was seen."""
        return self.review.placement


def initial_state(config: PlannerConfig, profile: Profile | None = None) -> PlannerState:
    """A planner that has seen nothing, or only a `profile` kept from an earlier run."""
    return PlannerState(
        config=config,
        forecast=Forecast(config.mix_window_s, config.min_samples),
        profile=profile or Profile(),
    )


def advanced(state: PlannerState, observation: Observation) -> tuple[PlannerState, float | None]:
    """The state after what came and ended since the last call, placed anew if that is due.

    Also when to look at the placement again if only time is missing for a change.
    """
    forecast = state.forecast.advanced(observation.jobs, observation.now_s)
    profile = state.profile.with_samples(observation.finished)
    review, review_at_s = reviewed(state.review, forecast, profile, observation, state.config)
    return replace(state, forecast=forecast, profile=profile, review=review), review_at_s
