"""What stages cost: a running median of seconds per (model, stage, shape), fed by finished stages.

A loop's seconds are kept per step, so any number of steps can be asked for. A median because one slow sample
(a page fault, a neighbour on the host) must not move deadlines; over a short window because a device's speed
does drift.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planner.types import ModelView, Shape, StageKey, StageSample

MEDIAN_SAMPLES = 31
"""How many samples a median reaches back: odd, and few enough that a change of speed shows in seconds."""

GUIDED_COST = 2.0
"""Denoiser passes of a guided step over those of an unguided one."""


@dataclass(frozen=True, slots=True)
class Record:
    """The last samples of one (model, stage, shape), oldest first, in seconds per step."""

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
class Profile:
    """Immutable; `with_samples` gives the next one. The empty profile knows nothing."""

    records: Mapping[StageKey, Mapping[Shape, Record]] = field(default_factory=dict)

    def with_samples(self, samples: Iterable[StageSample]) -> Profile:
        """The profile after `samples`, in their order; `self` when there are none."""
        changed: dict[StageKey, dict[Shape, Record]] = {}
        for sample in samples:
            key = (sample.model, sample.stage)
            shapes = changed.setdefault(key, dict(self.records.get(key, {})))
            seconds = sample.seconds / max(1, sample.steps)
            known = shapes.get(sample.shape)
            shapes[sample.shape] = (
                known.with_sample(seconds, sample.warm_up) if known else _record((seconds,), sample.warm_up)
            )
        return Profile({**self.records, **changed}) if changed else self

    def estimate_s(self, model: ModelView, stage: str, shape: Shape, steps: int) -> float | None:
        """Seconds of one worker for `stage`; `steps` counts only for the model's loop stage.

        An unseen shape is scaled from the nearest known one by pixels x frames, and on the loop stage by two
        passes a guided step. That overstates a text encode, whose time hardly depends on the shape, by what
        is little beside the loop. None when the stage was never seen at any shape: the caller decides.
        """
        shapes = self.records.get((model.model, stage))
        if not shapes:
            return None
        is_loop = stage == model.loop_stage
        known = min(shapes, key=lambda other: (_distance(shape, other), shape.guided != other.guided, other))
        seconds = shapes[known].median_s * _volume(shape) / _volume(known)
        if is_loop and shape.guided != known.guided:
            seconds *= GUIDED_COST if shape.guided else 1 / GUIDED_COST
        return seconds * steps if is_loop else seconds

    def job_s(self, model: ModelView, stages: Iterable[str], shape: Shape, steps: int) -> float | None:
        """Seconds of `stages` one after the other; None when any of them was never seen."""
        total_s = 0.0
        for stage in stages:
            seconds = self.estimate_s(model, stage, shape, steps)
            if seconds is None:
                return None
            total_s += seconds
        return total_s


def _volume(shape: Shape) -> int:
    return max(1, shape.width_px * shape.height_px * shape.frames)


def _distance(shape: Shape, other: Shape) -> float:
    return abs(math.log(_volume(shape) / _volume(other)))
