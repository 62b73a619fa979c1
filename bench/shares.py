"""The loop's share of the GPU-seconds of finished stages, and when it clearly asks for another split.

With the loop on n workers and the rest on others, both keep up with each other while the loop takes about
n of the workers' share of the seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from planner.types import ModelView, StageSample


@dataclass(frozen=True, slots=True)
class Shares:
    """Finished stages of the last `window_s`, and further back where it would hold fewer than `min_samples`.

    Immutable; `advanced` gives the next one. `samples` are ordered by their end.
    """

    window_s: float
    min_samples: int
    samples: tuple[StageSample, ...] = ()

    def advanced(self, finished: tuple[StageSample, ...], now_s: float) -> Shares:
        """The shares at `now_s` with `finished` added and what left the window dropped."""
        horizon_s = now_s - self.window_s
        samples = sorted((*self.samples, *finished), key=lambda sample: sample.ended_s)
        n_recent = sum(sample.ended_s > horizon_s for sample in samples)
        n_dropped = max(0, len(samples) - max(n_recent, self.min_samples))
        return Shares(self.window_s, self.min_samples, tuple(samples[n_dropped:]))

    def of_loops(self, models: Mapping[str, ModelView]) -> float | None:
        """The loops' part. None with fewer than `min_samples`, or nothing spent."""
        if len(self.samples) < max(1, self.min_samples):
            return None
        loop_s = total_s = 0.0
        for sample in self.samples:
            total_s += sample.seconds
            loop_s += sample.seconds if sample.stage == models[sample.model].loop_stage else 0.0
        return loop_s / total_s if total_s > 0.0 else None


def n_loop_workers(share: float, n_workers: int) -> int:
    """Workers that a loop with `share` of the GPU-seconds needs: rounded, in [1, n_workers]."""
    return max(1, min(n_workers, math.floor(share * n_workers + 0.5)))


def past_boundary(share: float, n_loop: int, n_workers: int, margin: float) -> bool:
    """Whether `share` asks for another number than `n_loop`, and clearly so.

    The margin is at most a quarter of the distance between two boundaries, 1 / n_workers.
    """
    wanted = n_loop_workers(share, n_workers)
    if wanted == n_loop:
        return False
    boundary = (n_loop + (0.5 if wanted > n_loop else -0.5)) / n_workers
    return abs(share - boundary) >= min(margin, 0.25 / n_workers)
