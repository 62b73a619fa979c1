"""What the demo asks for: a small mixed load, and a shift from small pictures to large ones and back.

All seeds are fixed, so every run asks for the same pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from pathlib import Path

from bench.journal import PlacementChange, placement_changes, read_journal
from bench.load import Clock, Result, TimedRequest
from pipelines.catalogue import Model
from planner.types import Shape

_FAVOURITES = (
    *("fox", "owl", "rocket", "strawberry", "penguin", "sunflower", "dragon", "pizza", "castle", "panda"),
    *("ice cream", "sailboat", "cactus", "guitar", "octopus", "hamburger", "unicorn", "globe", "mushroom"),
)
_LOOKS = (
    *("", ", flat icon on a blue background", " next to a balloon", ", soft gradient"),
    ", noto style drawing",
)
"""Said after each thing in turn to a model that brings a list of what it knows."""
_MIXED = (
    # pictures, steps over the model's default, deadline in ms per step (None: the server's own), at_s
    (2, 1.0, None, 0.0),
    (1, 1.0, 500, 0.3),
    (1, 0.6, 125, 0.9),
    (2, 1.0, None, 1.5),
    (1, 1.5, 500, 2.1),
    (2, 1.0, None, 2.8),
    (1, 0.6, 125, 3.5),
    (1, 1.0, 150, 4.2),
    (1, 1.25, None, 5.0),
    (2, 1.0, None, 6.0),
)
_N_SHIFT = 7
"""Of each size the shift sends these over and over."""

_FIRST_ROUNDS = 4
_FIRST_SEED = 7


def prompts(model: Model) -> tuple[str, ...]:
    """What to ask for: of the things that the model was taught, where it brings a list of them."""
    names = Path(model.source) / "names.txt"
    if not names.is_file():
        return _FAVOURITES
    known = dict.fromkeys(names.read_text("utf-8").split("\n"))
    known.pop("", None)
    chosen = tuple(name for name in _FAVOURITES if name in known)
    dressed = zip(chosen or tuple(known), cycle(_LOOKS), strict=False)
    return tuple(f"{name}{look}" for name, look in dressed)


def mixed_requests(model: Model) -> list[TimedRequest]:
    """The load of the first two phases: n=1 and n=2, different steps, some with a deadline."""
    names = prompts(model)
    requests = []
    for index, (n, scale, ms_per_step, at_s) in enumerate(_MIXED):
        steps = max(1, min(model.max_steps, round(scale * model.default_steps)))
        requests.append(
            TimedRequest(
                prompt=names[index % len(names)],
                seed=_FIRST_SEED + 10 * index,
                n=n,
                steps=steps,
                slo_ms=None if ms_per_step is None else float(ms_per_step * steps),
                at_s=at_s,
                fields={"exactness": "bitwise"},
            )
        )
    return requests


def shift_shapes(model: Model) -> tuple[Shape, Shape]:
    """Half and twice the usual size, as far as the model makes them."""
    multiple = model.size_multiple_px

    def square(side_px: float) -> Shape:
        side = min(max(int(side_px), model.min_size_px), model.max_size_px) // multiple * multiple
        return Shape(side, side)

    usual = max(model.default_size_px)
    return square(usual / 2), square(usual * 2)


def shift_requests(model: Model, shape: Shape) -> list[TimedRequest]:
    """The same prompts and seeds whatever the size, with half of the usual steps."""
    names = prompts(model)[::-1]
    steps = max(1, model.default_steps // 2)
    size = f"{shape.width_px}x{shape.height_px}"
    return [
        TimedRequest(prompt=names[index % len(names)], seed=_FIRST_SEED + 10 * index, steps=steps, size=size)
        for index in range(_N_SHIFT)
    ]


class Shift:
    """The third phase's requests: small pictures, large ones until stages are split, small ones until not.

    The last two go on for `after` requests behind their change, and end after `limit_s` without one. A
    request that failed ends it all: there is nothing to show any more.
    """

    def __init__(
        self,
        journal: Path,
        small: Sequence[TimedRequest],
        large: Sequence[TimedRequest],
        *,
        after: int = 10,
        limit_s: float,
        clock: Clock = time.monotonic,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._journal = journal
        self._small, self._large = small, large
        self._after = after
        self._limit_s = limit_s
        self._clock = clock
        self._on_change = on_change
        self._start_s = clock()
        self._failed = False
        self._n_told = 0
        self._seen: PlacementChange | None = None

    def done(self, result: Result) -> None:
        """To be told of every result."""
        self._failed |= not result.ok

    def __iter__(self) -> Iterator[TimedRequest]:
        for requests, wanted in ((self._small, None), (self._large, "split"), (self._small, "colocated")):
            deadline_s = self._clock() + self._limit_s
            last: int | None = None
            for sent, request in zip(count(), cycle(requests), strict=False):
                if wanted is None:
                    last = _FIRST_ROUNDS * len(requests)
                elif self._is_placed(colocated=wanted == "colocated") and last is None:
                    last = sent + self._after
                is_over = last is not None and sent >= max(last, len(requests))
                if self._failed or is_over or self._clock() > deadline_s:
                    break
                yield request

    def _is_placed(self, *, colocated: bool) -> bool:
        """Whether the last change of places was to co-located, or to a split."""
        changes = placement_changes(read_journal(self._journal).effects, since_s=self._start_s)
        # told when it has stayed as it is from one look to the next: its last effect may be yet to come
        for change in changes[self._n_told :]:
            if change != self._seen:
                self._seen = change
                break
            self._n_told += 1
            if self._on_change is not None:
                self._on_change(f"{change.places} ({change.reason}: {change.detail})")
        return bool(changes) and changes[-1].is_colocated == colocated
