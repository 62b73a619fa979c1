"""When a job must be done: what the client asked for, or a multiple of what the job costs alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from planner.profile import Profile
from planner.types import ModelView, Priority, Shape

SLO_SCALE: Mapping[Priority, float] = MappingProxyType({"interactive": 1.5, "standard": 2.5, "batch": 20.0})
"""A job's time until its deadline over its time alone, at the best degree of idle workers."""

URGENCY: Mapping[Priority, int] = MappingProxyType({"interactive": 0, "standard": 1, "batch": 2})
"""Which of two jobs with one deadline goes first: the lower."""

UNPROFILED_S = 300.0
"""Time until the deadline of a job whose cost is not known yet. Generous: it only orders the first jobs of a
model, and an early guess must not make them overtake jobs whose deadlines mean something."""


def default_deadline_s(
    profile: Profile,
    devices: Collection[str],
    model: ModelView,
    shape: Shape,
    steps: int,
    now_s: float,
    slo_ms: float | None,
    priority: Priority = "standard",
    stages: tuple[str, ...] | None = None,
) -> float:
    """The absolute deadline of a job that arrives at `now_s`; `slo_ms` is the client's own bound, if any.

    `stages`: those that it needs, all of the model's if None. `devices`: the kinds that there are.
    """
    if slo_ms is not None:
        return now_s + slo_ms / 1000
    alone = alone_s(profile, devices, model, shape, steps, model.stages if stages is None else stages)
    return now_s + (UNPROFILED_S if alone is None else SLO_SCALE[priority] * alone)


def alone_s(
    profile: Profile,
    devices: Collection[str],
    model: ModelView,
    shape: Shape,
    steps: int,
    stages: tuple[str, ...],
) -> float | None:
    """Seconds of `stages` at the best degree k* on the fastest of the kinds that know them all; None if none
    does.

    Source: an SLO is a multiple of the latency at k*, TridentServe (arXiv 2510.02838).
    """
    known = [
        seconds
        for device in sorted(devices)
        if (
            seconds := profile.job_s(
                device, model, stages, shape, steps, profile.best_degree(device, model, shape)
            )
        )
        is not None
    ]
    return min(known, default=None)
