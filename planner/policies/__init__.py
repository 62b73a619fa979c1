"""Ways to decide, by `PlannerConfig.policy`. All share the types, the profile and the residency rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from planner.policies import fair, fcfs, triptych
from planner.state import PlannerState
from planner.types import Effect, Observation

Policy = Callable[[PlannerState, Observation], tuple[PlannerState, tuple[Effect, ...]]]

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {"triptych": triptych.decide, "fair": fair.decide, "fcfs": fcfs.decide}
)
