"""What is asked for now and how much of it the placement serves: to be shown. Nothing is decided by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from planner.forecast import Kind
from planner.ground import ground_of
from planner.state import PlannerState
from planner.types import Observation, StageKey


@dataclass(frozen=True, slots=True)
class Expected:
    """`arrivals`: pictures a second by kind. `demand_s`: GPU-seconds a second by stage.

    The placement serves `rate` times as much; None while nothing is asked for or nothing is placed.
    """

    arrivals: Mapping[Kind, float]
    demand_s: Mapping[StageKey, float]
    rate: float | None


def expected(state: PlannerState, seen: Observation) -> Expected:
    """As of the observation that `state` has seen last."""
    ground = ground_of(state.forecast, state.profile, seen, state.config)
    placement, rate = state.placement, math.inf
    if placement is not None and placement.stages.keys() == {worker.worker_id for worker in seen.workers}:
        counts = ground.counts(ground.masks(placement.stages))
        rate = ground.problem.capacity(counts).rate
    known = ground.problem.asked_s > 0.0 and math.isfinite(rate)
    return Expected(state.forecast.rates(seen.now_s), ground.demand_s, rate if known else None)
