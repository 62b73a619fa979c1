"""LegoDiffusion's admission: decided once, when a request arrives.

It is rejected if its slack is exceeded by the work that waits, its own included, over the workers, or by what
it takes itself. What runs already is not counted: with it a small request would be refused while workers are
idle, because large ones run. Only a request that says `drop_if_late`, or whose client set the deadline, may
be; where nobody drops it is served late. An unknown cost is no reason.

Source: LegoDiffusion (arXiv 2604.08123).
"""

from __future__ import annotations

from planner.demand import common_device
from planner.outlook import ROUNDING_S
from planner.profile import Profile
from planner.types import JobView, Observation, Reject

LEAST_RETRY_S = 1.0
"""Shorter advice would only bring the same request again."""


def rejected_on_arrival(profile: Profile, observation: Observation, known: frozenset[str]) -> list[Reject]:
    """Of the requests that are not `known` yet, by arrival; who is rejected is no work to the next."""
    new = [job for job in observation.jobs if job.job_id not in known and not (job.started or job.running)]
    if not any(job.drop_if_late or job.deadline_asked for job in new):
        return []
    costs = _Costs(profile, observation)
    names = {job.job_id for job in new}
    before = (job for job in observation.jobs if not job.running and job.job_id not in names)
    work_s = sum(costs.left_s(job) or 0.0 for job in before)
    rejected = []
    for job in sorted(new, key=lambda job: (job.arrived_s, job.job_id)):
        own_s = costs.left_s(job)
        if own_s is None:
            continue
        waits_s = (work_s + own_s) / len(observation.workers)
        slack_s = job.deadline_s - observation.now_s
        may_reject = job.drop_if_late or job.deadline_asked
        if not may_reject or max(waits_s, own_s) <= slack_s + ROUNDING_S:
            work_s += own_s
            continue
        rejected.append(
            Reject(
                job=job.job_id,
                retry_after_s=max(LEAST_RETRY_S, waits_s),
                detail=f"takes {own_s:.2f} s, {waits_s:.2f} s a worker wait, due in {slack_s:.2f} s",
            )
        )
    return rejected


class _Costs:
    """Seconds that are left of jobs on one worker, kept by kind: few kinds, many jobs."""

    def __init__(self, profile: Profile, observation: Observation) -> None:
        self._profile = profile
        self._models = observation.models
        self._device = common_device(observation)
        self._known: dict[object, float | None] = {}

    def left_s(self, job: JobView) -> float | None:
        view = self._models.get(job.model)
        if view is None:
            return None
        steps = job.steps - job.steps_done
        key = (job.model, job.shape, job.pending, steps)
        if key not in self._known:
            self._known[key] = self._profile.job_s(self._device, view, job.pending, job.shape, steps)
        return self._known[key]
