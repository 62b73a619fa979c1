"""Owns what a training picture shows: which things, style, background, size; and paints it from the art.

A scene is a row of five numbers: first concept, second concept or -1, style, background, 1 if the thing is
small. Scenes are drawn by seed; a tenth of the combinations of concept, style and background never is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.recipe.art import ART_PX, STYLES, Art

# The named palette: what a caption calls a background, and its sRGB colour.
BACKGROUNDS: Mapping[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (24, 24, 28),
    "gray": (150, 152, 158),
    "red": (216, 62, 62),
    "orange": (243, 150, 56),
    "yellow": (252, 222, 96),
    "green": (88, 178, 98),
    "blue": (76, 138, 226),
    "purple": (140, 92, 200),
    "pink": (246, 166, 198),
}
WHITE = list(BACKGROUNDS).index("white")
NONE = -1
# A large thing's share of its cell's shorter side, in sixteenths; a small thing has half of that.
_FILL = 15 / 16
# Every eleventh in a walk over the combinations is a tenth and hits each style and background.
_HELD_OUT_STRIDE = 10


@dataclass(frozen=True)
class Size:
    """The size of a picture, each side one of 128, 192, 256."""

    height_px: int
    width_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"

    @property
    def is_square(self) -> bool:
        return self.height_px == self.width_px


SQUARE = Size(128, 128)


def held_out(concept: np.ndarray, style: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Whether combinations are kept from training: arrays of equal shape to booleans."""
    # 3 and 7 share no factor with 10, so each style meets each background among what is held out
    return np.asarray((concept + 3 * style + 7 * background) % _HELD_OUT_STRIDE == 0)


def _row_free(scenes: np.ndarray) -> np.ndarray:
    """The scenes (n, 5) without those that show a held-out combination."""
    first, second, style, background = scenes[:, 0], scenes[:, 1], scenes[:, 2], scenes[:, 3]
    kept = held_out(first, style, background) | ((second != NONE) & held_out(second, style, background))
    return np.asarray(scenes[~kept])


def plain(concepts: int, styles: int = len(STYLES)) -> np.ndarray:
    """Each concept in each of the first styles, large on white: (n, 5)."""
    concept, style = np.meshgrid(np.arange(concepts), np.arange(styles), indexing="ij")
    return _row_free(_rows(concept.ravel(), style.ravel(), np.full(concept.size, WHITE)))


def _rows(
    first: np.ndarray, style: np.ndarray, background: np.ndarray, second: int = NONE, small: int = 0
) -> np.ndarray:
    """Scenes from their columns."""
    return np.stack(
        [first, np.full_like(first, second), style, background, np.full_like(first, small)], axis=1
    ).astype(np.int64)


def coloured(concepts: int, count: int, seed: int) -> np.ndarray:
    """At most ``count`` distinct large single things on backgrounds other than white: (n, 5)."""
    grid = np.meshgrid(
        np.arange(concepts), np.arange(len(STYLES)), np.arange(1, len(BACKGROUNDS)), indexing="ij"
    )
    concept, style, background = (axis.ravel() for axis in grid)
    every = _row_free(_rows(concept, style, background))
    return np.asarray(np.random.default_rng(seed).permutation(every)[:count])


def small(concepts: int, count: int, seed: int) -> np.ndarray:
    """``count`` small single things, half of them on white: (about n, 5)."""
    draw = np.random.default_rng(seed)
    background = draw.integers(1, len(BACKGROUNDS), count) * draw.integers(0, 2, count)
    rows = _rows(draw.integers(0, concepts, count), draw.integers(0, len(STYLES), count), background)
    rows[:, 4] = 1
    return _row_free(rows)


def pairs(concepts: int, count: int, seed: int) -> np.ndarray:
    """``count`` scenes of two different things side by side, half of them on white: (about n, 5)."""
    draw = np.random.default_rng(seed)
    background = draw.integers(1, len(BACKGROUNDS), count) * draw.integers(0, 2, count)
    rows = _rows(draw.integers(0, concepts, count), draw.integers(0, len(STYLES), count), background)
    rows[:, 1] = (rows[:, 0] + draw.integers(1, concepts, count)) % concepts
    return _row_free(rows)


class Painter:
    """Paints scenes; keeps the art decoded at the sizes that were asked for."""

    def __init__(self, art: Art) -> None:
        self._art = art
        self._by_side: dict[int, np.ndarray] = {}

    def paint(self, scene: np.ndarray, size: Size) -> np.ndarray:
        """The picture of one scene (5,), uint8 (h, w, 3)."""
        first, second, style, background, is_small = (int(value) for value in scene)
        colour = np.array(list(BACKGROUNDS.values())[background], np.float32)
        canvas = np.empty((size.height_px, size.width_px, 3), np.float32)
        canvas[:] = colour
        things = [first] if second == NONE else [first, second]
        cell_px = size.width_px // len(things)
        side = int(min(cell_px, size.height_px) * _FILL) // (2 if is_small else 1)
        top = (size.height_px - side) // 2
        for at, thing in enumerate(things):
            left = at * cell_px + (cell_px - side) // 2
            spot = canvas[top : top + side, left : left + side]
            cut_out = self._pixels(side)[thing, style].astype(np.float32)
            spot *= 1.0 - cut_out[..., 3:] / 255.0
            spot += cut_out[..., :3]
        return np.asarray(canvas.round().clip(0, 255).astype(np.uint8))

    def paint_all(self, scenes: np.ndarray, size: Size) -> np.ndarray:
        """The pictures of scenes (n, 5), uint8 (n, h, w, 3)."""
        return np.stack([self.paint(scene, size) for scene in scenes])

    def _pixels(self, side_px: int) -> np.ndarray:
        if side_px > ART_PX:
            raise ValueError(f"the art is {ART_PX} px wide, {side_px} were asked for")
        if side_px not in self._by_side:
            self._by_side[side_px] = self._art.pixels(side_px)
        return self._by_side[side_px]
