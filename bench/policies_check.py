"""Whether the pictures of different policies are those of the same requests."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from bench.load import Result

MAX_LEVELS = 4
"""By how much of 255 a picture that shared calls may differ from the one made alone. Source: twice the most
that bench/results/batching.md found."""


class WrongPictures(Exception):
    """Two pictures of one request differ by more than they may."""


class Pictures:
    """The first picture of each request that was made bitwise, to which the others are compared."""

    def __init__(self) -> None:
        self._bitwise: dict[tuple[Any, ...], bytes] = {}
        self._n_equal = 0
        self._n_close = 0
        self._most_levels = 0
        self._numeric: list[tuple[tuple[Any, ...], bytes]] = []

    def seen(self, results: Iterable[Result]) -> None:
        """Raises `WrongPictures`."""
        for result in results:
            if not result.ok:
                continue
            asked = result.request
            key = (asked.prompt, asked.seed, asked.size, asked.steps)
            (picture,) = result.pictures
            if result.exactness != "bitwise":
                self._numeric.append((key, picture))
            elif self._bitwise.setdefault(key, picture) != picture:
                raise WrongPictures(f"{key}: two bitwise pictures differ")
            else:
                self._n_equal += 1
        for key, picture in self._numeric:
            if key in self._bitwise:
                self._compare(key, picture)
        self._numeric = [(key, picture) for key, picture in self._numeric if key not in self._bitwise]

    def found(self) -> dict[str, int]:
        """How many were compared, and how far those that shared calls were off."""
        return {
            "bitwise": self._n_equal,
            "numeric": self._n_close,
            "numeric_without_reference": len(self._numeric),
            "most_levels": self._most_levels,
        }

    def _compare(self, key: tuple[Any, ...], picture: bytes) -> None:
        levels = int(np.abs(_pixels(picture) - _pixels(self._bitwise[key])).max())
        self._n_close += 1
        self._most_levels = max(self._most_levels, levels)
        if levels > MAX_LEVELS:
            raise WrongPictures(f"{key}: a batched picture differs by {levels} of 255 levels")


def _pixels(picture: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)
