"""From what was measured at some shapes, degrees and batches to what is expected at any.

One worker with one job is the base: its costs are fitted in tokens. Everything else is a factor against the
base, interpolated over the logarithm of tokens: how far work can be split or shared depends on how much there
is. No I/O, no state but what was already worked out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.fit import Fit, Point, fitted
from planner.types import Shape


class Run(NamedTuple):
    """How a stage was run, or is to be: `batch` jobs of one shape together on `degree` workers."""

    shape: Shape
    degree: int = 1
    batch: int = 1


class _Way(NamedTuple):
    """A `Run` without its size."""

    guided: bool
    degree: int = 1
    batch: int = 1


@dataclass(frozen=True, slots=True)
class Curves:
    """`values` were measured; those of a loop stage are of one step."""

    values: Mapping[Run, float]
    _by_way: dict[_Way, list[Point]] = field(init=False, compare=False, repr=False)
    _fits: dict[bool, Fit] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_way: dict[_Way, list[Point]] = {}
        for run, value in self.values.items():
            by_way.setdefault(_Way(run.shape.guided, run.degree, run.batch), []).append(
                (run.shape.tokens, value)
            )
        for points in by_way.values():
            points.sort()
        object.__setattr__(self, "_by_way", by_way)
        base = {way.guided: fitted(points) for way, points in by_way.items() if way.degree == way.batch == 1}
        object.__setattr__(self, "_fits", base)

    @property
    def fits(self) -> Mapping[bool, Fit]:
        """Of one worker with one job, by whether it is guided."""
        return self._fits

    @property
    def degrees(self) -> tuple[int, ...]:
        """Those that were measured, with 1."""
        return tuple(sorted({1, *(way.degree for way in self._by_way)}))

    def at(self, run: Run, guided_cost: float) -> float | None:
        """What is expected; None without a base, or at a degree that was never measured.

        `guided_cost`: of a guided run over an unguided one, where only one of them was measured. Between two
        batches that were measured it goes straight; more than that many jobs cost as much as one by one.
        """
        if (value := self.values.get(run)) is not None:
            return value
        guided = self._base(run.shape.guided)
        if guided is None:
            return None
        tokens = run.shape.tokens
        seconds = self._fits[guided].at(tokens)
        if guided != run.shape.guided:
            usual = guided_cost if run.shape.guided else 1 / guided_cost
            factor = self._factor(_Way(run.shape.guided), _Way(guided), tokens)
            seconds *= usual if factor is None else factor
        if run.degree == run.batch == 1:
            return seconds
        factor = self._together(run)
        return None if factor is None else seconds * factor

    def _base(self, guided: bool) -> bool | None:
        """The guidance whose fit to go by: the one with more token counts, else the one that is asked for."""
        n_counts = {g: len({t for t, _ in self._by_way[_Way(g)]}) for g in self._fits}
        return max(n_counts, key=lambda g: (n_counts[g], g == guided), default=None)

    def _together(self, run: Run) -> float | None:
        """The cost at the run's degree and batch over the cost at 1 and 1."""
        tokens = run.shape.tokens
        for guided in (run.shape.guided, not run.shape.guided):
            way = _Way(guided, run.degree, run.batch)
            if (factor := self._factor(way, _Way(guided), tokens)) is not None:
                return factor
        if run.degree > 1 and run.batch > 1:
            alone = self._together(Run(run.shape, run.degree))
            many = self._together(Run(run.shape, 1, run.batch))
            return None if alone is None or many is None else alone * many
        return None if run.degree > 1 else self._batched(run)

    def _batched(self, run: Run) -> float:
        """The factor of a batch that was not measured itself."""
        measured = {way.batch for way in self._by_way if way.degree == 1} | {1}
        above = [batch for batch in measured if batch > run.batch]
        if not above:
            return float(run.batch)
        low, high = max(batch for batch in measured if batch < run.batch), min(above)
        at_low = 1.0 if low == 1 else self._together(Run(run.shape, 1, low))
        at_high = self._together(Run(run.shape, 1, high))
        if at_low is None or at_high is None:
            return float(run.batch)
        return at_low + (at_high - at_low) * (run.batch - low) / (high - low)

    def _factor(self, way: _Way, base: _Way, tokens: int) -> float | None:
        """What `way` costs over what `base` does; None where `way` was not measured, or `base` has no fit."""
        if way not in self._by_way or base.guided not in self._fits:
            return None
        fit, known = self._fits[base.guided], dict(self._by_way.get(base, ()))
        ratios = [
            (t, value / expected)
            for t, value in self._by_way[way]
            if (expected := known.get(t) or fit.at(t)) > 0
        ]
        return interpolated(ratios, tokens) if ratios else None


def interpolated(points: Sequence[Point], tokens: int) -> float:
    """Straight over log tokens between the two nearest of the sorted points; flat beyond the last ones."""
    if tokens <= points[0][0]:
        return points[0][1]
    for (low, at_low), (high, at_high) in itertools.pairwise(points):
        if tokens <= high:
            if low == high:
                return at_low
            return at_low + (at_high - at_low) * math.log(tokens / low) / math.log(high / low)
    return points[-1][1]
