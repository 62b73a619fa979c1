"""The timeline as values: who ran what when, what was handed over, when places changed. Draws nothing."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.journal import Journal, PlacementChange, StageSpan
from bench.shares import Shares
from planner.types import ModelView, Shape, StageSample

WARM_UP = "warm-up"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One stage of one picture on `lane`; seconds from the panel's start. `kind` is a stage's, or WARM_UP."""

    lane: int
    kind: str
    stage: str
    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """The output of a stage (of `kind`) that went to another worker: from its end to its use there."""

    from_lane: int
    to_lane: int
    from_s: float
    to_s: float
    kind: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A change of places."""

    at_s: float
    text: str
    reason: str
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One phase. `shares`: (seconds, the loop's share of the window's GPU-seconds), or empty."""

    title: str
    lanes: tuple[str, ...]
    blocks: tuple[Block, ...]
    handovers: tuple[HandOver, ...]
    marks: tuple[Mark, ...] = ()
    shares: tuple[tuple[float, float], ...] = ()
    share_bounds: tuple[float, float] | None = None
    loop_stage: str = ""

    @property
    def end_s(self) -> float:
        return max((block.end_s for block in self.blocks), default=0.0)


def panel(
    title: str,
    journal: Journal,
    labels: Mapping[str, str],
    *,
    start_s: float,
    changes: Sequence[PlacementChange] = (),
    shares: Sequence[tuple[float, float]] = (),
    share_bounds: tuple[float, float] | None = None,
) -> Panel:
    """`labels`: job id -> what its blocks are called. `start_s` on the journal's clock is second 0.

    Stages that ended before the start, the warm-ups of a starting gateway, are left out; so are stages of
    jobs without a label.
    """
    lane_of = {worker: lane for lane, worker in enumerate(sorted(journal.workers))}
    spans = [span for span in journal.stages if span.ended_s > start_s]
    blocks = tuple(
        Block(
            lane=lane_of[span.worker],
            kind=span.kind if span.job is not None else WARM_UP,
            stage=span.stage,
            label="" if span.job is None else labels[span.job],
            start_s=span.started_s - start_s,
            end_s=span.ended_s - start_s,
        )
        for span in sorted(spans, key=lambda span: span.started_s)
        if span.job is None or span.job in labels
    )
    marks = tuple(
        Mark(
            at_s=change.at_s - start_s,
            text=change.places,
            reason=f"{change.reason}: {change.detail}",
            share=share_at(shares, change.at_s),
        )
        for change in changes
    )
    return Panel(
        title=title,
        lanes=tuple(lane_of),
        blocks=blocks,
        handovers=tuple(_handovers(spans, lane_of, labels, start_s)),
        marks=marks,
        shares=tuple((at_s - start_s, share) for at_s, share in shares),
        share_bounds=share_bounds,
        loop_stage=", ".join(stage for stage, kind in journal.stage_kinds.items() if kind == "diffuse"),
    )


def _handovers(
    spans: Sequence[StageSpan], lane_of: Mapping[str, int], labels: Mapping[str, str], start_s: float
) -> list[HandOver]:
    by_job: dict[str, list[StageSpan]] = defaultdict(list)
    for span in spans:
        if span.job is not None and span.job in labels:
            by_job[span.job].append(span)
    return [
        HandOver(
            from_lane=lane_of[before.worker],
            to_lane=lane_of[after.worker],
            from_s=before.ended_s - start_s,
            to_s=after.started_s - start_s,
            kind=before.kind,
            label=labels[job],
        )
        for job, own in by_job.items()
        for before, after in pairwise(sorted(own, key=lambda span: span.started_s))
        if before.worker != after.worker
    ]


def loop_shares(
    journal: Journal, *, window_s: float, min_samples: int, every_s: float = 0.05
) -> list[tuple[float, float]]:
    """(time, the loop's share) at every stage's end and each `every_s`, of what ended within `window_s`."""
    loops = {span.model: span.stage for span in journal.stages if span.kind == "diffuse"}
    models = {
        model: ModelView(model=model, stages=tuple(journal.stage_kinds), loop_stage=loop)
        for model, loop in loops.items()
    }
    samples = sorted((_sample(span) for span in journal.stages if span.job), key=lambda s: s.ended_s)
    if not samples:
        return []
    window = Shares(window_s, min_samples)
    shares: list[tuple[float, float]] = []
    start_s, end_s = samples[0].ended_s, samples[-1].ended_s
    ticks_s = {start_s + tick * every_s for tick in range(math.ceil((end_s - start_s) / every_s))}
    taken = 0
    for now_s in sorted(ticks_s | {sample.ended_s for sample in samples}):
        n_ended = sum(sample.ended_s <= now_s for sample in samples)
        window = window.advanced(tuple(samples[taken:n_ended]), now_s)
        taken = n_ended
        share = window.of_loops(models)
        if share is not None:
            shares.append((now_s, share))
    return shares


def _sample(span: StageSpan) -> StageSample:
    return StageSample(
        model=span.model,
        stage=span.stage,
        shape=Shape(0, 0),
        steps=span.steps,
        seconds=span.seconds,
        ended_s=span.ended_s,
    )


def share_at(shares: Sequence[tuple[float, float]], at_s: float) -> float | None:
    """The last known share at that time."""
    return next((share for time_s, share in reversed(shares) if time_s <= at_s), None)
