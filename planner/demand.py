"""What is asked for in GPU-seconds: by stage, a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from planner.forecast import Forecast, Kind
from planner.profile import Profile
from planner.types import ModelView, Observation, Shape, StageKey


def demand_s(
    forecast: Forecast, profile: Profile, observation: Observation, horizon_s: float
) -> dict[StageKey, float]:
    """GPU-seconds a second of each stage of the models: forecast arrivals, and what is left of all open jobs
    spread over `horizon_s`, so that a stage whose queue grows weighs more.

    At the cheapest degree, on the commonest kind of device. A kind of job of which some stage was never seen
    counts for nothing, as does a model that is not served.
    """
    rates: dict[Kind, float] = dict(forecast.rates(observation.now_s))
    left = Counter(
        Kind(job.model, job.shape, job.steps - job.steps_done, job.pending) for job in observation.jobs
    )
    for kind, n in left.items():
        rates[kind] = rates.get(kind, 0.0) + n / horizon_s
    device = common_device(observation)
    costs = _Costs(profile, device, observation.models)
    total: dict[StageKey, float] = {}
    # in an order of their own, or sums would differ by rounding with the order of the jobs
    for kind, rate in sorted(rates.items()):
        seconds = [(stage, costs.of(kind, stage)) for stage in kind.stages]
        if any(of_stage is None for _, of_stage in seconds):
            continue
        for stage, of_stage in seconds:
            key = (kind.model, stage)
            total[key] = total.get(key, 0.0) + rate * (of_stage or 0.0)
    return total


def common_device(observation: Observation) -> str:
    """The kind of most workers, of equals the first by name; "" without workers."""
    kinds = Counter(worker.device for worker in observation.workers)
    return min(kinds, key=lambda kind: (-kinds[kind], kind), default="")


class _Costs:
    """GPU-seconds of one job, kept while one demand is added up: few shapes, many kinds."""

    def __init__(self, profile: Profile, device: str, models: Mapping[str, ModelView]) -> None:
        self._profile = profile
        self._device = device
        self._models = models
        self._known: dict[tuple[str, str, Shape, int], float | None] = {}

    def of(self, kind: Kind, stage: str) -> float | None:
        key = (kind.model, stage, kind.shape, kind.steps)
        if key not in self._known:
            self._known[key] = self._cheapest(kind, stage)
        return self._known[key]

    def _cheapest(self, kind: Kind, stage: str) -> float | None:
        view = self._models.get(kind.model)
        if view is None or stage not in view.stages:
            return None
        degrees = self._profile.degrees(self._device, view) if stage == view.loop_stage else (1,)
        seconds = (
            (degree, self._profile.stage_s(self._device, view, stage, kind.shape, kind.steps, degree=degree))
            for degree in degrees
        )
        return min((degree * of_stage for degree, of_stage in seconds if of_stage is not None), default=None)
