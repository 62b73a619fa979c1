"""One stage's costs on one kind of device: what was measured, corrected by what is seen while serving.

All that was measured is off by about the same factor where it is off: a neighbour on the host, another clock,
a driver. So the running median of observed over measured corrects every shape after a few tasks of any; a
shape's own median corrects what is left. Medians because one slow sample must not move deadlines; over short
windows because a device's speed does drift.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planner.curves import Curves, Run
from planner.types import Shape, StageSample

MEDIAN_SAMPLES = 31
"""How many samples a median reaches back: odd, and few enough that a change of speed shows in seconds."""

TRUST_SAMPLES = 3
"""How many samples an expectation counts as: two slow ones in a row do not outvote it, four fast ones do."""

GUIDED_COST = 2.0
"""Denoiser passes of a guided step over those of an unguided one."""


@dataclass(frozen=True, slots=True)
class Record:
    """The last samples of one run, oldest first, in seconds per step."""

    seconds: tuple[float, ...]
    warm_up: bool
    median_s: float

    def with_sample(self, seconds: float, warm_up: bool) -> Record:
        """Warm-up samples stand in until a real one comes, which replaces them all."""
        if warm_up and not self.warm_up:
            return self
        before = self.seconds if warm_up == self.warm_up else ()
        return _record((*before, seconds)[-MEDIAN_SAMPLES:], warm_up)


def _record(seconds: tuple[float, ...], warm_up: bool) -> Record:
    return Record(seconds, warm_up, statistics.median(seconds))


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Immutable; `with_sample` gives the next one. `measured` None: it goes by samples alone.

    `ratios` are the last samples over what was measured. Seconds are of one step where the stage is a loop.
    """

    measured: Curves | None = None
    measured_bytes: Curves | None = None
    records: Mapping[Run, Record] = field(default_factory=dict)
    ratios: tuple[float, ...] = ()
    seen_bytes: Mapping[Run, int] = field(default_factory=dict)
    _memo: Memo = field(init=False, compare=False, repr=False, default_factory=lambda: Memo())

    @classmethod
    def of(cls, seconds: Mapping[Run, float], peak_bytes: Mapping[Run, float]) -> StageCosts:
        """As measured, with nothing seen yet."""
        return cls(Curves(seconds), Curves(peak_bytes) if peak_bytes else None)

    def with_sample(self, sample: StageSample) -> StageCosts:
        """The costs after `sample`. A warm-up tells nothing of a stage that was measured."""
        run = Run(sample.shape, sample.degree, sample.batch)
        after = self
        if sample.peak_bytes is not None and sample.peak_bytes > self.seen_bytes.get(run, -1):
            after = replace(after, seen_bytes={**self.seen_bytes, run: sample.peak_bytes})
        if self.measured is not None and sample.warm_up:
            return after
        seconds = sample.seconds / max(1, sample.steps)
        known = self.records.get(run)
        record = known.with_sample(seconds, sample.warm_up) if known else _record((seconds,), sample.warm_up)
        ratios = self.ratios
        if self.measured is not None:
            expected_s = self.measured.at(run, GUIDED_COST if sample.steps > 1 else 1.0)
            if expected_s:
                ratios = (*ratios, seconds / expected_s)[-MEDIAN_SAMPLES:]
        made = StageCosts(
            self.measured, self.measured_bytes, {**self.records, run: record}, ratios, after.seen_bytes
        )
        if after is self and made._expects_as(self, run):
            object.__setattr__(made, "_memo", self._memo)
        return made

    def is_same(self, other: StageCosts) -> bool:
        """Whether both are known to give the same answers about what a run costs and needs."""
        return self._memo is other._memo

    def _expects_as(self, before: StageCosts, run: Run) -> bool:
        """Whether the last sample, which was of `run`, changed nothing that is expected."""
        if self.measured is None or self.ratio != before.ratio:
            return False
        return all(self.seconds(run, is_loop) == before.seconds(run, is_loop) for is_loop in (False, True))

    @property
    def curves(self) -> Curves:
        """Over what was measured, else over the medians of what was seen, real samples before warm-ups."""
        if self.measured is not None:
            return self.measured
        if self._memo.curves is None:
            real = {run: record for run, record in self.records.items() if not record.warm_up}
            at_base = any(run.degree == run.batch == 1 for run in real)
            chosen = real if at_base else self.records
            self._memo.curves = Curves({run: record.median_s for run, record in chosen.items()})
        return self._memo.curves

    @property
    def is_proved(self) -> bool:
        """Whether it was measured, or ever ran for a job: a first run may take many times as long."""
        return self.measured is not None or any(not record.warm_up for record in self.records.values())

    @property
    def ratio(self) -> float:
        """What is observed over what was measured; 1 where nothing was."""
        if self._memo.ratio is None:
            self._memo.ratio = _trusted(1.0, self.ratios)
        return self._memo.ratio

    def seconds(self, run: tuple[Shape, int, int], is_loop: bool) -> float | None:
        """What is expected of `run`, None if nothing is known to go by. See `Curves.at`."""
        known = self._memo.seconds
        if (run, is_loop) not in known:
            known[run, is_loop] = self._expected_s(Run(*run), is_loop)
        return known[run, is_loop]

    def seen_s(self, shape: Shape) -> float | None:
        """What is expected of one job of a shape that was measured or seen itself."""
        run = Run(shape)
        was_seen = run in self.records or (self.measured is not None and run in self.measured.values)
        # the shape's own figures are known, so no guidance is guessed at and either answer will do
        return self.seconds(run, False) if was_seen else None

    def largest_degree(self, shape: Shape, efficiency: float) -> int:
        """The largest degree with at least that speed-up over degree in a loop; 1 if nothing is known."""
        known = self._memo.degrees
        if (shape, efficiency) not in known:
            alone_s = self.seconds((shape, 1, 1), True)
            good = [1]
            for degree in self.curves.degrees:
                together_s = self.seconds((shape, degree, 1), True)
                if alone_s is None or not together_s:
                    continue
                # a degree that is just good enough must not fall to rounding
                if alone_s / (degree * together_s) >= efficiency - 1e-9:
                    good.append(degree)
            known[shape, efficiency] = max(good)
        return known[shape, efficiency]

    def peak_bytes(self, run: Run) -> int | None:
        """The most that one worker holds beside the weights, None if nothing is known to go by."""
        known = self._memo.peak_bytes
        if run not in known:
            curves = self.measured_bytes or Curves({r: float(n) for r, n in self.seen_bytes.items()})
            figures = [n for n in (curves.at(run, 1.0), self.seen_bytes.get(run)) if n is not None]
            known[run] = round(max(figures)) if figures else None
        return known[run]

    def _expected_s(self, run: Run, is_loop: bool) -> float | None:
        record = self.records.get(run)
        guided_cost = GUIDED_COST if is_loop else 1.0
        if self.measured is None:
            return record.median_s if record else self.curves.at(run, guided_cost)
        expected_s = self.measured.at(run, guided_cost)
        if expected_s is not None:
            expected_s *= self.ratio
        if record is None:
            return expected_s
        if expected_s is None:
            return record.median_s
        return _trusted(expected_s, record.seconds)


@dataclass(slots=True)
class Memo:
    """What was worked out of one `StageCosts`: costs are asked for thousands of times between two samples."""

    seconds: dict[tuple[tuple[Shape, int, int], bool], float | None] = field(default_factory=dict)
    peak_bytes: dict[Run, int | None] = field(default_factory=dict)
    degrees: dict[tuple[Shape, float], int] = field(default_factory=dict)
    curves: Curves | None = None
    ratio: float | None = None


def _trusted(expected: float, seen: tuple[float, ...]) -> float:
    """The median of what was `seen` last, in which what was `expected` counts as several samples.

    To nine digits: seconds are differences of times on a clock, and their rounding is no news.
    """
    return float(f"{statistics.median((*[expected] * TRUST_SAMPLES, *seen)[-MEDIAN_SAMPLES:]):.9g}")
