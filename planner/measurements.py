"""What a worker measured of a model on its own device: plain frozen values, which are kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from planner.types import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`batch` jobs of one shape ran `stage` together on `degree` workers in `seconds`; a loop per step.

    `peak_bytes`: the most that one worker held beside the weights, None where that was not measured.
    """

    stage: str
    shape: Shape
    seconds: float
    peak_bytes: int | None = None
    degree: int = 1
    batch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Everything known of `model` on devices of the kind `device`. What is missing was not measured.

    `weight_bytes` of each stage's parts on a worker and `load_s` to load them; `resume_s` is what going on
    from a checkpoint costs over going on at once. `kernels`: by what a call's speed depends on, the faster
    path and the kernel's settings (`kernels.switch.Choice`).
    """

    device: str
    model: str
    measured: tuple[Measurement, ...] = ()
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    load_s: Mapping[str, float] = field(default_factory=dict)
    resume_s: float | None = None
    kernels: Mapping[str, tuple[Literal["triton", "torch"], tuple[int, ...]]] = field(default_factory=dict)
