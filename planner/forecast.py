"""What is asked for: arrivals of the last while by kind, and how many are to be expected.

Arrivals, not finished stages: a stage that is short of workers finishes little, which is when the placement
has to know that much of it was asked for. The window is `window_s` long, and longer where it would hold
fewer than `min_samples`: a fleet whose pictures take a minute each still has a mix, and after a quiet hour
one fresh arrival is not taken for the whole mix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planner.types import JobView, Shape

N_BUCKETS = 6
"""Buckets of a window: so many are kept instead of every arrival, and an even number has two halves."""

LARGEST_KEPT_WINDOWS = 10
"""For so many windows after its last arrival the largest shape counts: memory that one was short of is not
filled again at once, or a large picture now and then would move stages there and back."""

SIGMAS = 2.0
"""How unlikely a difference between the halves must be by chance (of Poisson arrivals) to be a trend."""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Jobs that cost the same. `stages`: those that they needed when they came."""

    model: str
    shape: Shape
    steps: int
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Arrivals by kind within one N_BUCKETS-th of a window, which starts at `index` times its length."""

    index: int
    counts: Mapping[Kind, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Forecast:
    """Immutable; `advanced` gives the next one. `buckets`: the oldest first, none empty.

    `known`: jobs that were counted and may still be shown. `largest`: the shape with the most tokens that
    was asked of a model lately, and at `largest_s` last; the same object until that changes. `began_s`: the
    first look.
    """

    window_s: float
    min_samples: int
    buckets: tuple[Bucket, ...] = ()
    known: frozenset[str] = frozenset()
    largest: Mapping[str, Shape] = field(default_factory=dict)
    largest_s: Mapping[str, float] = field(default_factory=dict)
    began_s: float | None = None

    @property
    def bucket_s(self) -> float:
        return self.window_s / N_BUCKETS

    def advanced(self, jobs: tuple[JobView, ...], now_s: float) -> Forecast:
        """The forecast at `now_s` with the jobs counted that are seen for the first time."""
        new = [job for job in jobs if job.job_id not in self.known and not job.started and not job.running]
        index = math.floor(now_s / self.bucket_s)
        kept = self._kept(index)
        if not new:
            same = len(kept) == len(self.buckets) and self.began_s is not None
            return self if same else replace(self, buckets=kept, began_s=self._began_s(now_s))
        counts = dict(kept[-1].counts) if kept and kept[-1].index == index else {}
        for job in new:
            kind = Kind(job.model, job.shape, job.steps, job.pending)
            counts[kind] = counts.get(kind, 0) + 1
        older = kept[:-1] if kept and kept[-1].index == index else kept
        buckets = (*older, Bucket(index, counts))
        largest, largest_s = self._largest(buckets, new, now_s)
        return replace(
            self,
            buckets=buckets,
            known=frozenset(job.job_id for job in jobs),
            largest=self.largest if largest == self.largest else largest,
            largest_s=largest_s,
            began_s=self._began_s(now_s),
        )

    def rates(self, now_s: float) -> Mapping[Kind, float]:
        """Arrivals a second to be expected of each kind that was seen.

        The mean over the window. Where a (model, shape) came clearly more or less often in the newer half
        than in the older one, the line through both rates, continued by one half, and at most twice and at
        least half of the newer one.
        """
        start_s = self._start_s(now_s)
        n_older = max(1, round((now_s - start_s) / self.bucket_s / 2))
        split = round(start_s / self.bucket_s) + n_older
        older: dict[Kind, int] = {}
        newer: dict[Kind, int] = {}
        for bucket in self.buckets:
            half = older if bucket.index < split else newer
            for kind, n in bucket.counts.items():
                half[kind] = half.get(kind, 0) + n
        span_s = self.span_s(now_s)
        newer_s = now_s - split * self.bucket_s
        trends = _trends(older, newer, max(0.0, newer_s / span_s))
        totals = {kind: older.get(kind, 0) + newer.get(kind, 0) for kind in {**older, **newer}}
        return {kind: n / span_s * trends[kind.model, kind.shape] for kind, n in totals.items()}

    def span_s(self, now_s: float) -> float:
        """How long the window is now; at least one bucket."""
        return max(self.bucket_s, now_s - self._start_s(now_s))

    def n_since(self, at_s: float) -> int:
        """How many arrivals came in buckets that began at `at_s` or later."""
        return sum(bucket.total for bucket in self.buckets if bucket.index * self.bucket_s >= at_s)

    def _start_s(self, now_s: float) -> float:
        """When the window began: with a bucket, or with the first look."""
        index = math.floor(now_s / self.bucket_s) - N_BUCKETS + 1
        if self.buckets:
            index = min(index, self.buckets[0].index)
        start_s = index * self.bucket_s
        return start_s if self.began_s is None else max(start_s, min(self.began_s, now_s))

    def _kept(self, index: int) -> tuple[Bucket, ...]:
        n_kept, total = 0, 0
        for bucket in reversed(self.buckets):
            if bucket.index <= index - N_BUCKETS and total >= self.min_samples:
                break
            n_kept, total = n_kept + 1, total + bucket.total
        return self.buckets[len(self.buckets) - n_kept :]

    def _largest(
        self, buckets: tuple[Bucket, ...], new: list[JobView], now_s: float
    ) -> tuple[dict[str, Shape], dict[str, float]]:
        largest, at_s = dict(self.largest), dict(self.largest_s)
        for model in {job.model for job in new}:
            shapes = {job.shape for job in new if job.model == model}
            if now_s - at_s.get(model, now_s) > LARGEST_KEPT_WINDOWS * self.window_s:
                del largest[model]
                shapes |= {kind.shape for bucket in buckets for kind in bucket.counts if kind.model == model}
            found = max(shapes, key=_size)
            if model not in largest or _size(found) >= _size(largest[model]):
                largest[model], at_s[model] = found, now_s
        return largest, at_s

    def _began_s(self, now_s: float) -> float:
        return now_s if self.began_s is None else self.began_s


def _trends(
    older: Mapping[Kind, int], newer: Mapping[Kind, int], newer_share: float
) -> dict[tuple[str, Shape], float]:
    """By what each (model, shape)'s mean rate is to be multiplied. `newer_share`: of the window's time."""
    before: dict[tuple[str, Shape], int] = {}
    after: dict[tuple[str, Shape], int] = {}
    for halves, totals in ((older, before), (newer, after)):
        for kind, n in halves.items():
            key = (kind.model, kind.shape)
            totals[key] = totals.get(key, 0) + n
    trends = {}
    for key in {**before, **after}:
        n_newer = after.get(key, 0)
        n = n_newer + before.get(key, 0)
        spread = SIGMAS * math.sqrt(n * newer_share * max(0.0, 1 - newer_share))
        if newer_share <= 0.0 or abs(n_newer - n * newer_share) <= spread:
            trends[key] = 1.0
        else:
            now = n_newer / newer_share / n
            ago = (n - n_newer) / (1 - newer_share) / n
            trends[key] = min(2 * now, max(now / 2, 2 * now - ago))
    return trends


def _size(shape: Shape) -> tuple[int, Shape]:
    return shape.tokens, shape
