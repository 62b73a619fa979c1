"""How much memory makes the planner split a model for large pictures and hold it whole for small ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.profiles import Kept
from planner.measurements import Measurements
from planner.profile import Profile
from planner.rooms import Sizes
from planner.types import ModelView, Shape

_NO_BOUND = 2**60


class CannotShift(Exception):
    """With this model no memory does; the text says why."""


def kept_measurements(profiles: Path, model: str) -> Measurements:
    """What a node left in its `--profiles` folder. Raises `CannotShift` if it measured nothing of `model`."""
    for file in profiles.glob("*.json"):
        found = msgspec.json.decode(file.read_bytes(), type=Kept).measurements
        if found.model == model:
            return found
    raise CannotShift(f"no profile of {model} was kept in {profiles.name}")


def held_bytes(
    found: Measurements, stages: tuple[str, ...], loop_stage: str, largest: Shape
) -> dict[str, int]:
    """What a worker needs for "all" stages, for the "loop" alone and for the "rest", by the largest shape."""
    view = ModelView(found.model, stages, loop_stage, weight_bytes=found.weight_bytes)
    sizes = Sizes(Profile().with_measured(found), {found.model: view}, {found.model: largest})
    rest = tuple(stage for stage in stages if stage != loop_stage)
    return {
        name: sizes.held_bytes(frozenset((found.model, stage) for stage in held), found.device, _NO_BOUND)
        for name, held in (("all", stages), ("loop", (loop_stage,)), ("rest", rest))
    }


def memory_between(found: Measurements, stage_kinds: Mapping[str, str], small: Shape, large: Shape) -> int:
    """Bytes of a worker that holds all stages for `small` pictures and for `large` ones only some.

    `stage_kinds`: stage -> kind, in order. Raises `CannotShift`.
    """
    loop_stage = next(stage for stage, kind in stage_kinds.items() if kind == "diffuse")
    for_small, for_large = (
        held_bytes(found, tuple(stage_kinds), loop_stage, each) for each in (small, large)
    )
    least = max(for_small["all"], for_large["loop"], for_large["rest"])
    if least >= for_large["all"]:
        raise CannotShift(
            f"all stages need {for_large['all']:,} bytes for pictures of {large.width_px} px, which is not"
            f" more than what they need for {small.width_px} px, or than what their parts need"
        )
    return (least + for_large["all"]) // 2
