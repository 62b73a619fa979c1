"""Every decision of the system, pure: `decide(state, observation) -> (state, effects)`.

No I/O, no clocks, no torch. The live gateway and the simulator drive the same core.
"""

from planner.core import decide
from planner.deadline import SLO_SCALE, UNPROFILED_S, default_deadline_s
from planner.forecast import Forecast
from planner.placement import Placement
from planner.profile import Profile
from planner.state import PlannerState, initial_state
from planner.types import (
    Effect,
    Evict,
    JobView,
    Load,
    ModelView,
    Observation,
    Pause,
    PlannerConfig,
    Priority,
    Reason,
    Run,
    RunningTask,
    Shape,
    StageKey,
    StageSample,
    WakeAt,
    WorkerView,
)

__all__ = [
    "SLO_SCALE",
    "UNPROFILED_S",
    "Effect",
    "Evict",
    "Forecast",
    "JobView",
    "Load",
    "ModelView",
    "Observation",
    "Pause",
    "Placement",
    "PlannerConfig",
    "PlannerState",
    "Priority",
    "Profile",
    "Reason",
    "Run",
    "RunningTask",
    "Shape",
    "StageKey",
    "StageSample",
    "WakeAt",
    "WorkerView",
    "decide",
    "default_deadline_s",
    "initial_state",
]
