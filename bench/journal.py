"""Reads the gateway's journal: finished stages, placement effects and ended requests, as values.

Times are seconds on the node's monotonic clock, which a client on the same machine shares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTUP_REASONS = frozenset({"initial_placement", "pinned_placement", "worker_replaced"})
"""Reasons of effects that do not come from the load: the rule did not change its mind."""


class JournalUnreadable(Exception):
    """The file is not a journal."""


@dataclass(frozen=True, kw_only=True)
class StageSpan:
    """One stage that ran on one worker. `job` is None for a warm-up; `kind`: encode, diffuse or decode."""

    worker: str
    job: str | None
    request: str | None
    model: str
    stage: str
    kind: str
    started_s: float
    ended_s: float
    overhead_s: float
    steps: int

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s


@dataclass(frozen=True, kw_only=True)
class PlacementEffect:
    """Stages that a worker was told to load or to evict, and why."""

    effect: str
    worker: str
    stages: tuple[str, ...]
    reason: str
    detail: str
    at_s: float

    @property
    def told(self) -> tuple[str, str]:
        """What the effects of one decision have in common."""
        return self.reason, self.detail


@dataclass(frozen=True, kw_only=True)
class RequestEnd:
    """How a request ended. `times_s` are the parts of its life; `deadline_s` is from arrival."""

    request: str
    outcome: str
    times_s: dict[str, float]
    deadline_s: float
    deadline_met: bool
    at_s: float


@dataclass(frozen=True, kw_only=True)
class Journal:
    """All of it, each list in the order written. `workers` in the order of the configuration.

    `left`: what paused loops ran until they were left.
    """

    workers: tuple[str, ...]
    stages: tuple[StageSpan, ...]
    effects: tuple[PlacementEffect, ...]
    ends: tuple[RequestEnd, ...]
    left: tuple[StageSpan, ...] = ()

    @property
    def stage_kinds(self) -> dict[str, str]:
        """Stage -> kind, in the pipeline's order."""
        return {span.stage: span.kind for span in sorted(self.stages, key=lambda span: span.started_s)}


@dataclass(frozen=True, kw_only=True)
class PlacementChange:
    """Effects that carried out one decision about places. `homes`: worker -> its stages, once it is done."""

    at_s: float
    effects: tuple[PlacementEffect, ...]
    homes: dict[str, tuple[str, ...]]

    @property
    def reason(self) -> str:
        return self.effects[0].reason

    @property
    def detail(self) -> str:
        return self.effects[0].detail

    @property
    def is_colocated(self) -> bool:
        return len({frozenset(stages) for stages in self.homes.values()}) == 1

    @property
    def places(self) -> str:
        """In words."""
        if self.is_colocated:
            return "co-located: every stage on every worker"
        return "split: " + ", ".join(f"{w} {'+'.join(stages)}" for w, stages in sorted(self.homes.items()))


def read_journal(file: Path) -> Journal:
    """The journal so far: a last line that is still being written is left out. Raises `JournalUnreadable`."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise JournalUnreadable(f"{file}: {error.strerror}") from error
    workers: dict[str, None] = {}
    stages, left = list[StageSpan](), list[StageSpan]()
    effects, ends = list[PlacementEffect](), list[RequestEnd]()
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            match event["event"]:
                case "worker":
                    workers.setdefault(event["worker"])
                case "stage":
                    stages.append(_stage(event))
                case "left":
                    left.append(_stage(event))
                case "effect" if event["effect"] in ("load", "evict"):
                    effects.append(_effect(event))
                case "request":
                    ends.append(_end(event))
        except (ValueError, KeyError, TypeError) as error:
            raise JournalUnreadable(f"{file}:{number}: {error!r}") from error
    return Journal(
        workers=tuple(workers),
        stages=tuple(stages),
        effects=tuple(effects),
        ends=tuple(ends),
        left=tuple(left),
    )


def placement_changes(effects: Sequence[PlacementEffect], *, since_s: float) -> list[PlacementChange]:
    """The decisions behind the effects that came after `since_s` and have a reason in the load.

    All effects of a decision tell the same reason and detail; its evictions follow when its loads are done.
    """
    homes: dict[str, list[str]] = {}
    changes: list[PlacementChange] = []
    open_effects: list[PlacementEffect] = []
    for effect in effects:
        held = homes.setdefault(effect.worker, [])
        if open_effects and open_effects[-1].told != effect.told:
            open_effects = []
        if effect.effect == "load":
            held.extend(stage for stage in effect.stages if stage not in held)
        else:
            homes[effect.worker] = [stage for stage in held if stage not in effect.stages]
        if effect.at_s < since_s or not effect.reason or effect.reason in STARTUP_REASONS:
            continue
        if open_effects:
            changes.pop()
        open_effects.append(effect)
        changes.append(
            PlacementChange(
                at_s=open_effects[0].at_s,
                effects=tuple(open_effects),
                homes={worker: tuple(stages) for worker, stages in homes.items()},
            )
        )
    return changes


def _stage(event: dict[str, Any]) -> StageSpan:
    return StageSpan(
        worker=event["worker"],
        job=event["job"],
        request=event["request"],
        model=event["model"],
        stage=event["stage"],
        kind=event["kind"],
        started_s=event["started_at_s"],
        ended_s=event["ended_at_s"],
        overhead_s=event.get("overhead_s", 0.0),
        steps=event["steps"],
    )


def _effect(event: dict[str, Any]) -> PlacementEffect:
    return PlacementEffect(
        effect=event["effect"],
        worker=event["worker"],
        stages=tuple(event["stages"]),
        reason=event["reason"],
        detail=event["detail"],
        at_s=event["at_s"],
    )


def _end(event: dict[str, Any]) -> RequestEnd:
    return RequestEnd(
        request=event["request"],
        outcome=event["outcome"],
        times_s=event["times_s"],
        deadline_s=event["deadline_s"],
        deadline_met=event["deadline_met"],
        at_s=event["at_s"],
    )
