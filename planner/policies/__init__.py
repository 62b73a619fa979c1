"""Ways to decide, by `PlannerConfig.policy`: ours and its rivals. All share the types and the profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from planner.policies import fair, lego, trident, triptych
from planner.policies.baselines import BASELINES
from planner.state import PlannerState
from planner.types import Effect, Observation

Policy = Callable[[PlannerState, Observation], tuple[PlannerState, tuple[Effect, ...]]]

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "triptych": triptych.decide,
        "fair": fair.decide,
        "fcfs": BASELINES["b1"].decide,
        **{name: baseline.decide for name, baseline in BASELINES.items()},
        "trident": trident.decide,
        "lego": lego.decide,
    }
)
