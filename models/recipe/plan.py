"""Owns how much is trained on which device: literal tables of steps, batches and learning rates.

A GPU's stages are at most nine minutes each; a CPU's run for hours in the background, concrete concepts
only, and a stage that is done is usable and scored whatever becomes of the next.
"""

import math
from dataclasses import dataclass

from models.recipe.scenes import SQUARE, Size


@dataclass(frozen=True)
class AutoencoderPlan:
    """Steps on 64 px crops, then on whole 128 px pictures."""

    crop_steps: int
    crop_batch: int
    whole_steps: int
    whole_batch: int
    peak_lr: float


@dataclass(frozen=True)
class TextPlan:
    """Steps of distillation, and how many phrases each one sees."""

    steps: int
    batch: int
    peak_lr: float


@dataclass(frozen=True)
class Stage:
    """One stage of the denoiser: what share of each batch shows which kind of scene, and for how long.

    It ends after ``steps``, or after ``seconds`` of training if those are over sooner; the learning rate
    falls towards that end. ``batch`` is of 128 px pictures; of larger ones a batch has as many fewer as they
    have more tokens. Each step draws one of ``sizes``.
    """

    name: str
    steps: int
    batch: int
    hidden_lr: float
    rest_lr: float
    shares: dict[str, float]
    sizes: tuple[Size, ...] = (SQUARE,)
    seconds: float = math.inf


@dataclass(frozen=True)
class Plan:
    """Everything that depends on the device.

    ``scenes`` is how many scenes of a kind are encoded at 128 px, ``larger_scenes`` of all kinds together
    at each other size. ``average_decay`` is that of the published moving average of the weights.
    ``scored_part`` is the share of the score's pictures that are drawn after a stage other than the last.
    """

    concrete_only: bool
    autoencoder: AutoencoderPlan
    text: TextPlan
    scenes: dict[str, int]
    larger_scenes: int
    average_decay: float
    scored_part: float
    stages: tuple[Stage, ...]


LARGER_SIZES = tuple(
    Size(height, width)
    for height in (128, 192, 256)
    for width in (128, 192, 256)
    if (height, width) != (128, 128)
)
LARGER_SHARES = {"plain": 0.45, "coloured": 0.25, "small": 0.05, "pairs": 0.25}
# Two things in one picture take far more steps than one: both are small, and none comes alone.
PAIRS_SHARES = {"plain": 0.15, "coloured": 0.1, "small": 0.05, "pairs": 0.7}
PAIRS_SIZES = (*(2 * len(LARGER_SIZES) * (SQUARE,)), *LARGER_SIZES)
LAST_SHARES = {"plain": 0.35, "coloured": 0.2, "small": 0.05, "pairs": 0.4}
LAST_SIZES = (*(4 * (SQUARE,)), *LARGER_SIZES)

CPU = Plan(
    concrete_only=True,
    autoencoder=AutoencoderPlan(900, 8, 500, 4, 2e-3),
    text=TextPlan(700, 256, 2e-3),
    scenes={"coloured": 9000, "small": 3000, "pairs": 30_000},
    larger_scenes=3000,
    average_decay=0.998,
    scored_part=0.25,
    stages=(
        Stage("one style", 1400, 48, 2e-3, 1e-3, {"one style": 1.0}),
        Stage(
            "styles and backgrounds", 4400, 48, 2e-3, 1e-3, {"plain": 0.6, "coloured": 0.35, "small": 0.05}
        ),
        Stage("pairs", 3000, 48, 2e-3, 1e-3, LARGER_SHARES),
        Stage("larger sizes", 1500, 48, 1.5e-3, 7e-4, LARGER_SHARES, (SQUARE, SQUARE, *LARGER_SIZES)),
        Stage("more pairs", 2800, 48, 2e-3, 1e-3, PAIRS_SHARES, PAIRS_SIZES),
        Stage("more sizes", 2300, 48, 1.5e-3, 7e-4, LAST_SHARES, LAST_SIZES),
    ),
)
GPU = Plan(
    concrete_only=False,
    autoencoder=AutoencoderPlan(3000, 64, 1000, 32, 3e-3),
    text=TextPlan(3000, 1024, 2e-3),
    scenes={"coloured": 40_000, "small": 12_000, "pairs": 60_000},
    larger_scenes=4000,
    average_decay=0.998,
    scored_part=1.0,
    stages=(
        Stage("one style", 2000, 512, 2e-3, 1e-3, {"one style": 1.0}, seconds=60.0),
        Stage(
            "styles and backgrounds",
            8000,
            512,
            2e-3,
            1e-3,
            {"plain": 0.5, "coloured": 0.4, "small": 0.1},
            seconds=180.0,
        ),
        Stage("pairs", 8000, 512, 2e-3, 1e-3, LARGER_SHARES, seconds=180.0),
        Stage(
            "larger sizes",
            8000,
            512,
            1.5e-3,
            7e-4,
            LARGER_SHARES,
            (SQUARE, SQUARE, *LARGER_SIZES),
            seconds=240.0,
        ),
        Stage("more pairs", 8000, 512, 2e-3, 1e-3, PAIRS_SHARES, PAIRS_SIZES, seconds=240.0),
        Stage("more sizes", 8000, 512, 1.5e-3, 7e-4, LAST_SHARES, LAST_SIZES, seconds=300.0),
    ),
)
