"""Where the GPU-seconds went: finished stages of the last while, as the placement rule weighs them.

The window is `window_s` long, and longer where it would hold fewer than `min_samples`: a fleet whose pictures
take a minute each still has a mix, and after a quiet hour one fresh sample is not taken for the whole mix.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from planner.types import ModelView, StageKey, StageSample

_ended_s = attrgetter("ended_s")


@dataclass(frozen=True, slots=True)
class LoopShare:
    """`share` of `total_s` GPU-seconds was spent in loop stages within the last `span_s`."""

    share: float
    total_s: float
    span_s: float


@dataclass(frozen=True)
class Mix:
    """Immutable; `advanced` gives the next one. `samples` are ordered by their end and hold no warm-up."""

    window_s: float
    min_samples: int
    samples: tuple[StageSample, ...] = ()

    def advanced(self, finished: tuple[StageSample, ...], now_s: float) -> Mix:
        """The mix at `now_s` with the real samples of `finished` added and what left the window dropped."""
        horizon_s = now_s - self.window_s
        real = [sample for sample in finished if not sample.warm_up]
        if not real and (not self.samples or self.samples[0].ended_s > horizon_s):
            return self
        samples = (*self.samples, *sorted(real, key=_ended_s))
        if real and self.samples and samples[len(self.samples)].ended_s < self.samples[-1].ended_s:
            samples = tuple(sorted(samples, key=_ended_s))
        n_recent = len(samples) - bisect_right(samples, horizon_s, key=_ended_s)
        n_dropped = max(0, len(samples) - max(n_recent, self.min_samples))
        return Mix(self.window_s, self.min_samples, samples[n_dropped:])

    @cached_property
    def seconds(self) -> Mapping[StageKey, float]:
        """Observed GPU-seconds per (model, stage). Summed once: many decisions see the same mix."""
        totals_s: dict[StageKey, float] = {}
        for sample in self.samples:
            key = (sample.model, sample.stage)
            totals_s[key] = totals_s.get(key, 0.0) + sample.seconds
        return totals_s

    def n_since(self, at_s: float) -> int:
        """How many of the samples ended after `at_s`."""
        return len(self.samples) - bisect_right(self.samples, at_s, key=_ended_s)

    def loop_share(self, models: Mapping[str, ModelView], now_s: float) -> LoopShare | None:
        """The loop's part over all `models`. None with fewer than `min_samples`, or nothing spent on them."""
        if len(self.samples) < max(1, self.min_samples):
            return None
        loop_s = total_s = 0.0
        for (model, stage), seconds in self.seconds.items():
            if model in models:
                total_s += seconds
                loop_s += seconds if stage == models[model].loop_stage else 0.0
        if total_s <= 0.0:
            return None
        return LoopShare(loop_s / total_s, total_s, max(self.window_s, now_s - self.samples[0].ended_s))
