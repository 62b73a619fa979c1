"""What stages cost, in seconds and bytes, by device kind, model, stage, shape, degree and batch.

Workers measure a model on their devices before it serves (`planner.measurements`); finished stages correct
that while it does (`planner.stage_costs`); shapes that were never run are fitted (`planner.curves`). A loop's
seconds are kept per step, so any number of steps can be asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planner.curves import Run
from planner.fit import Fit
from planner.measurements import Measurements
from planner.stage_costs import StageCosts
from planner.types import ModelView, Shape, StageSample

GOOD_EFFICIENCY = 0.8
"""Speed-up over degree that a degree must have to be worth its workers when none is idle.

Source: TridentServe (arXiv 2510.02838).
"""

UNMEASURED_RESUME_S = 0.05
"""What a resume is taken to cost where it was not measured: above the 2 to 13 ms of a small checkpoint's way
through shared memory, so that a pause is not thought to be free."""

Key = tuple[str, str, str]
"""Device kind, model, stage."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Immutable; `with_samples` and `with_measured` give the next one. The empty profile knows nothing."""

    costs: Mapping[Key, StageCosts] = field(default_factory=dict)
    measurements: Mapping[tuple[str, str], Measurements] = field(default_factory=dict)
    _seconds: object = field(init=False, compare=False, repr=False, default_factory=object)

    def with_samples(self, samples: Iterable[StageSample]) -> Profile:
        """The profile after `samples`, in their order; `self` when there are none."""
        changed: dict[Key, StageCosts] = {}
        for sample in samples:
            key = (sample.device, sample.model, sample.stage)
            before = changed.get(key) or self.costs.get(key) or StageCosts()
            changed[key] = before.with_sample(sample)
        if not changed:
            return self
        made = Profile({**self.costs, **changed}, self.measurements)
        if all(key in self.costs and costs.is_same(self.costs[key]) for key, costs in changed.items()):
            object.__setattr__(made, "_seconds", self._seconds)
        return made

    def is_same(self, other: Profile) -> bool:
        """Whether both are known to give the same answers about costs: samples may tell nothing new."""
        return self._seconds is other._seconds

    def with_measured(self, new: Measurements) -> Profile:
        """The profile with that model on that device kind as measured; what was seen of it before goes.

        `self` if it is what was measured already.
        """
        if self.measurements.get((new.device, new.model)) == new:
            return self
        costs = {key: known for key, known in self.costs.items() if key[:2] != (new.device, new.model)}
        for stage in dict.fromkeys(measurement.stage for measurement in new.measured):
            of_stage = [each for each in new.measured if each.stage == stage]
            costs[new.device, new.model, stage] = StageCosts.of(
                {Run(each.shape, each.degree, each.batch): each.seconds for each in of_stage},
                {
                    Run(each.shape, each.degree, each.batch): float(each.peak_bytes)
                    for each in of_stage
                    if each.peak_bytes is not None
                },
            )
        return Profile(costs, {**self.measurements, (new.device, new.model): new})

    def stage_s(
        self,
        device: str,
        view: ModelView,
        stage: str,
        shape: Shape,
        steps: int,
        *,
        degree: int = 1,
        batch: int = 1,
    ) -> float | None:
        """Seconds of `stage` on `degree` workers of that kind for `batch` jobs together.

        `steps` counts only for the model's loop stage. None when the stage was never seen on that kind, or
        that degree was not. A batch that was never measured costs as much as one job after the other.
        """
        costs = self.costs.get((device, view.model, stage))
        if costs is None:
            return None
        is_loop = stage == view.loop_stage
        seconds = costs.seconds((shape, degree, batch), is_loop)
        return seconds * steps if is_loop and seconds is not None else seconds

    def is_proved(self, device: str, view: ModelView) -> bool:
        """Whether every stage was measured on that kind or ran for a job; else what is known is a guess."""
        known = (self.costs.get((device, view.model, stage)) for stage in view.stages)
        return all(costs is not None and costs.is_proved for costs in known)

    def peak_bytes(
        self, device: str, view: ModelView, stage: str, shape: Shape, *, degree: int = 1, batch: int = 1
    ) -> int | None:
        """The most that each of the workers holds beside the weights; None when that was never seen."""
        costs = self.costs.get((device, view.model, stage))
        return None if costs is None else costs.peak_bytes(Run(shape, degree, batch))

    def job_s(
        self, device: str, view: ModelView, stages: Iterable[str], shape: Shape, steps: int, degree: int = 1
    ) -> float | None:
        """Seconds of `stages` one after the other, the loop on `degree` workers; None if one is unknown."""
        total_s = 0.0
        for stage in stages:
            of_stage = degree if stage == view.loop_stage else 1
            seconds = self.stage_s(device, view, stage, shape, steps, degree=of_stage)
            if seconds is None:
                return None
            total_s += seconds
        return total_s

    def degrees(self, device: str, view: ModelView) -> tuple[int, ...]:
        """The degrees of the loop whose cost is known, ascending, always with 1."""
        costs = self.costs.get((device, view.model, view.loop_stage))
        return (1,) if costs is None else costs.curves.degrees

    def best_degree(self, device: str, view: ModelView, shape: Shape) -> int:
        """k*: the largest degree whose speed-up over it is at least `GOOD_EFFICIENCY`; 1 if nothing is known.

        Source: TridentServe (arXiv 2510.02838).
        """
        costs = self.costs.get((device, view.model, view.loop_stage))
        return 1 if costs is None else costs.largest_degree(shape, GOOD_EFFICIENCY)

    def resume_s(self, device: str, view: ModelView) -> float:
        """What going on from a checkpoint costs over going on at once."""
        known = self.measurements.get((device, view.model))
        return UNMEASURED_RESUME_S if known is None or known.resume_s is None else known.resume_s

    def seen_s(self, device: str, model: str, stage: str, shape: Shape) -> float | None:
        """Seconds of one job at this very shape, per step of a loop; None if it never ran like that."""
        costs = self.costs.get((device, model, stage))
        return None if costs is None else costs.seen_s(shape)

    def fits(self, device: str, model: str, stage: str) -> Mapping[bool, Fit]:
        """What unseen shapes of one job are taken to cost, by whether it is guided, with the fits' errors."""
        costs = self.costs.get((device, model, stage))
        return {} if costs is None else costs.curves.fits
