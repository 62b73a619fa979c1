"""The timeline as values: who ran what when, what was handed over, when places changed. Draws nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.journal import Journal, PlacementChange, StageSpan

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


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One phase."""

    title: str
    lanes: tuple[str, ...]
    blocks: tuple[Block, ...]
    handovers: tuple[HandOver, ...]
    marks: tuple[Mark, ...] = ()

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
) -> Panel:
    """`labels`: job id -> what its blocks are called. `start_s` on the journal's clock is second 0.

    Stages that ended before the start, the warm-ups of a starting gateway, are left out; so are stages of
    jobs without a label.
    """
    lane_of = {worker: lane for lane, worker in enumerate(sorted(journal.workers))}
    spans = [span for span in (*journal.stages, *journal.left) if span.ended_s > start_s]
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
        )
        for change in changes
    )
    return Panel(
        title=title,
        lanes=tuple(lane_of),
        blocks=blocks,
        handovers=tuple(_handovers(spans, lane_of, labels, start_s)),
        marks=marks,
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
