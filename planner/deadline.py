"""When a job must be done: what the client asked for, or a multiple of what the job costs alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from planner.profile import Profile
from planner.types import ModelView, Priority, Shape

SLO_SCALE: Mapping[Priority, float] = MappingProxyType({"interactive": 1.5, "standard": 2.5, "batch": 20.0})
"""A job's time until its deadline over its time alone on an idle worker."""

URGENCY: Mapping[Priority, int] = MappingProxyType({"interactive": 0, "standard": 1, "batch": 2})
"""Which of two jobs with one deadline goes first: the lower."""

UNPROFILED_S = 300.0
"""Time until the deadline of a job whose cost is not known yet. Generous: it only orders the first jobs of a
model, and an early guess must not make them overtake jobs whose deadlines mean something."""


def default_deadline_s(
    profile: Profile,
    model: ModelView,
    shape: Shape,
    steps: int,
    now_s: float,
    slo_ms: float | None,
    priority: Priority = "standard",
    stages: tuple[str, ...] | None = None,
) -> float:
    """The absolute deadline of a job that arrives at `now_s`; `slo_ms` is the client's own bound, if any.

    `stages`: those that it needs, all of the model's if None.
    """
    if slo_ms is not None:
        return now_s + slo_ms / 1000
    alone_s = profile.job_s(model, model.stages if stages is None else stages, shape, steps)
    return now_s + (UNPROFILED_S if alone_s is None else SLO_SCALE[priority] * alone_s)
