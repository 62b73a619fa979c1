"""What stages cost in a simulation: seconds, bytes and how they change with degree and batch. No I/O here.

A table is made of `planner.measurements.Measurements`, the same values that a worker's profiler writes, so a
profile measured on a real device is simulated like a literal table. Lookups are exact: a shape, degree or
batch that was not measured cannot be run, and nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from planner.measurements import Measurement, Measurements
from planner.profile import Profile
from planner.types import ModelView, Shape, StageKey

SLO_SCALE = 2.5
"""Time from arrival to deadline over the latency alone. Source: TridentServe (arXiv 2510.02838)."""

LEAST_EFFICIENCY = 0.8
"""The least speed-up / degree at which a degree counts as efficient. Source: TridentServe."""


class UnknownCost(Exception):
    """The table has no figure for what was asked."""


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """One model on one kind of device. `steps`: of its loop; `mix`: the shapes
    that are asked for, equally often.

    Raises `UnknownCost` if a shape of the mix has no figure for one of its stages on one worker.
    """

    view: ModelView
    steps: int
    mix: tuple[Shape, ...]
    measurements: Measurements
    _seconds: dict[tuple[str, Shape, int, int], float] = field(init=False, compare=False, repr=False)
    _bytes: dict[tuple[str, Shape, int, int], int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        measured = self.measurements.measured
        seconds = {(m.stage, m.shape, m.degree, m.batch): m.seconds for m in measured}
        peaks = {(m.stage, m.shape, m.degree, m.batch): m.peak_bytes or 0 for m in measured}
        object.__setattr__(self, "_seconds", seconds)
        object.__setattr__(self, "_bytes", peaks)
        for shape in self.mix:
            for stage in self.view.stages:
                self.stage_s(stage, shape, self.steps)

    def stage_s(self, stage: str, shape: Shape, steps: int, *, degree: int = 1, batch: int = 1) -> float:
        """Seconds of `stage` for `batch` jobs on `degree` workers. Raises `UnknownCost`."""
        try:
            seconds = self._seconds[stage, shape, degree, batch]
        except KeyError:
            what = f"{self.view.model} {stage} at {shape}, degree {degree}, batch {batch}"
            raise UnknownCost(f"{what} was never measured") from None
        return seconds * steps if stage == self.view.loop_stage else seconds

    def peak_bytes(self, stage: str, shape: Shape, *, degree: int = 1, batch: int = 1) -> int:
        """The most that one worker holds beside the weights; 0 where it was not measured."""
        return self._bytes.get((stage, shape, degree, batch), 0)

    def degrees(self, shape: Shape) -> tuple[int, ...]:
        """Those of the loop, ascending."""
        loop = self.view.loop_stage
        return tuple(sorted(d for s, at, d, b in self._seconds if (s, at, b) == (loop, shape, 1)))

    def batches(self, stage: str, shape: Shape, degree: int = 1) -> tuple[int, ...]:
        """How many jobs may share a call, ascending."""
        return tuple(sorted(b for s, at, d, b in self._seconds if (s, at, d) == (stage, shape, degree)))

    def whole_bytes(self, shape: Shape) -> int:
        """The least that one worker must hold to run every stage of a job: all weights, and the largest peak,
        with the loop at the degree that needs least."""
        loop = self.view.loop_stage
        peaks = [self.peak_bytes(stage, shape) for stage in self.view.stages if stage != loop]
        peaks.append(min(self.peak_bytes(loop, shape, degree=degree) for degree in self.degrees(shape)))
        return sum(self.view.weight_bytes.get(stage, 0) for stage in self.view.stages) + max(peaks)

    def rest_s(self, shape: Shape) -> float:
        """Seconds of all stages that are not the loop, one worker, alone."""
        return sum(
            self.stage_s(stage, shape, self.steps)
            for stage in self.view.stages
            if stage != self.view.loop_stage
        )

    def latency_s(self, shape: Shape, degree: int) -> float:
        """Seconds of a job alone on an idle fleet that has everything resident."""
        return self.rest_s(shape) + self._loop_s(shape, degree)

    def efficient_degree(self, shape: Shape) -> int:
        """k*: the largest degree whose speed-up of the loop over the degree is at least 0.8."""
        alone_s = self._loop_s(shape, 1)
        return max(
            degree
            for degree in self.degrees(shape)
            if alone_s / self._loop_s(shape, degree) / degree >= LEAST_EFFICIENCY
        )

    def slo_s(self, shape: Shape, *, fastest: bool = False) -> float:
        """From arrival to deadline: 2.5 times the latency at k*, or at the `fastest` degree."""
        if fastest:
            return SLO_SCALE * min(self.latency_s(shape, degree) for degree in self.degrees(shape))
        return SLO_SCALE * self.latency_s(shape, self.efficient_degree(shape))

    def cheapest_s(self, shape: Shape, slo_s: float) -> float:
        """GPU-seconds of a job at its cheapest degree that meets `slo_s` alone, else at its fastest one."""
        degrees = self.degrees(shape)
        meeting = [degree for degree in degrees if self.latency_s(shape, degree) <= slo_s]
        if not meeting:
            meeting = [min(degrees, key=lambda degree: self.latency_s(shape, degree))]
        return self.rest_s(shape) + min(degree * self._loop_s(shape, degree) for degree in meeting)

    def scaled(self, factors: Mapping[str, float]) -> ModelCosts:
        """The same with the seconds of each stage times its factor, if it has one."""
        measured = tuple(
            replace(m, seconds=m.seconds * factors.get(m.stage, 1.0)) for m in self.measurements.measured
        )
        return replace(self, measurements=replace(self.measurements, measured=measured))

    def _loop_s(self, shape: Shape, degree: int) -> float:
        return self.stage_s(self.view.loop_stage, shape, self.steps, degree=degree)


@dataclass(frozen=True, slots=True)
class Costs:
    """Everything that takes time or room on a fleet of one kind of device.

    `resume_s`: going on from a checkpoint; `handoff_s`: taking over from another worker; `memory_bytes`: of a
    worker, None without a bound. A lost loop goes back to the last multiple of `checkpoint_every` steps.
    """

    name: str
    device: str
    models: Mapping[str, ModelCosts]
    resume_s: float = 0.04
    handoff_s: float = 0.005
    memory_bytes: int | None = None
    checkpoint_every: int = 8

    @property
    def views(self) -> Mapping[str, ModelView]:
        """The models as the planner sees them."""
        return {name: model.view for name, model in self.models.items()}

    @property
    def degrees(self) -> tuple[int, ...]:
        """Every degree that any loop was measured at, ascending."""
        return tuple(
            sorted({d for model in self.models.values() for shape in model.mix for d in model.degrees(shape)})
        )

    @property
    def stages(self) -> frozenset[StageKey]:
        """Every stage of every model."""
        return frozenset((name, stage) for name, model in self.models.items() for stage in model.view.stages)

    def scaled(self, factors: Mapping[str, float]) -> Costs:
        """The same with the seconds of each stage times its factor, if it has one."""
        return replace(self, models={name: model.scaled(factors) for name, model in self.models.items()})

    def with_resume(self, resume_s: float) -> Costs:
        """The same where going on from a checkpoint costs that, which a planner knows."""
        models = {
            name: replace(model, measurements=replace(model.measurements, resume_s=resume_s))
            for name, model in self.models.items()
        }
        return replace(self, models=models, resume_s=resume_s)

    def profile(self, *, error: float = 0.0, seed: int = 0) -> Profile:
        """What a planner knows that measured all of it, each figure wrong by a factor within 1 +- `error`.

        Degrees and batches of one shape and stage are wrong by the same factor, as a neighbour on the host
        or another clock would make them.
        """
        rng = Random(seed)
        profile = Profile()
        for name in sorted(self.models):
            measurements = self.models[name].measurements
            measured = _wrong(measurements.measured, error, rng)
            profile = profile.with_measured(replace(measurements, measured=measured))
        return profile


def _wrong(measured: Sequence[Measurement], error: float, rng: Random) -> tuple[Measurement, ...]:
    if not error:
        return tuple(measured)
    factors: dict[tuple[str, Shape], float] = {}
    for m in measured:
        factors.setdefault((m.stage, m.shape), 1 + rng.uniform(-error, error))
    return tuple(replace(m, seconds=m.seconds * factors[m.stage, m.shape]) for m in measured)
