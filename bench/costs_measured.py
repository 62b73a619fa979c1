"""Costs of a model as a worker measured them on its device: the files that a gateway keeps of profiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bench.costs import Costs, ModelCosts
from planner.measurements import Measurements
from planner.types import ModelView

LOOP_STAGE = "denoise"
"""What the loop is called in every family's modular pipeline."""


class ProfileUnreadable(Exception):
    """A file is no profile, or of too little to simulate with."""


class _Kept(msgspec.Struct):
    key: dict[str, Any]
    measurements: Measurements


def measured_costs(file: Path) -> Costs:
    """The profile in `file`. Its mix are the shapes that were measured at every stage, at the model's usual
    number of steps; memory has no bound. Raises `ProfileUnreadable`."""
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
        steps = int(kept.key["entry"]["default_steps"])
    except OSError as error:
        raise ProfileUnreadable(f"{file}: {error.strerror}") from error
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise ProfileUnreadable(f"{file}: {error!r}") from error
    found = kept.measurements
    stages = tuple(dict.fromkeys(each.stage for each in found.measured))
    if LOOP_STAGE not in stages:
        raise ProfileUnreadable(f"{file}: {LOOP_STAGE!r} is none of its stages, {', '.join(stages)}")
    alone = {(each.stage, each.shape) for each in found.measured if each.degree == each.batch == 1}
    shapes = dict.fromkeys(each.shape for each in found.measured)
    mix = tuple(shape for shape in shapes if all((stage, shape) in alone for stage in stages))
    if not mix:
        raise ProfileUnreadable(f"{file}: no shape was measured at every stage")
    view = ModelView(found.model, stages, LOOP_STAGE, found.weight_bytes, found.load_s)
    model = ModelCosts(view=view, steps=steps, mix=mix, measurements=found)
    costs = Costs(name=f"measured on {found.device}", device=found.device, models={found.model: model})
    return costs if found.resume_s is None else replace(costs, resume_s=found.resume_s)
