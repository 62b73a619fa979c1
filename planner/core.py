"""The planner's one entry: `decide(state, observation) -> (state, effects)`.

It reads no clock and draws no lots: the same state and observation always give the same effects, in the same
order. The caller carries the state from call to call and keeps the effects it carried out visible in the next
observation (see `planner.types`).
"""

from __future__ import annotations

from planner.policies import POLICIES
from planner.state import PlannerState, initial_state
from planner.types import Effect, Observation

__all__ = ["PlannerState", "decide", "initial_state"]


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """What to do now, in the order to carry it out, by the configured policy."""
    return POLICIES[state.config.policy](state, observation)
