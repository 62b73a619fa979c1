"""What the demo asks for: a small mixed load, and a shift from few-step to many-step requests.

All seeds are fixed, so every run asks for the same pictures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

from bench.journal import Journal, PlacementChange, placement_changes, read_journal
from bench.load import Clock, Result, TimedRequest
from bench.shares import past_boundary
from pipelines.catalogue import Model

_FAVOURITES = (
    *("fox", "owl", "rocket", "strawberry", "penguin", "sunflower", "dragon", "pizza", "castle", "panda"),
    *("ice cream", "sailboat", "cactus", "guitar", "octopus", "hamburger", "unicorn", "globe", "mushroom"),
)
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
SHOWN = 7
"""Each half of the shift sends at least this many requests, and the same ones, so they can be compared."""

_MAX_FEW_STEPS = 4
_CLEAR = 0.10
_MARGIN = 0.05
_FIRST_SEED = 7


class CannotShift(Exception):
    """With this model no number of steps gets the rule to split; the text says why."""


@dataclass(frozen=True)
class ShiftSteps:
    """Steps of both halves, and the loop's share of the GPU-seconds that each of them gives."""

    few: int
    few_share: float
    many: int
    many_share: float


def prompts(model: Model) -> tuple[str, ...]:
    """What to ask for: of the things that the model was taught, where it brings a list of them."""
    names = Path(model.source) / "names.txt"
    if not names.is_file():
        return _FAVOURITES
    known = dict.fromkeys(names.read_text("utf-8").split("\n"))
    known.pop("", None)
    chosen = tuple(name for name in _FAVOURITES if name in known)
    return chosen if len(chosen) >= len(_MIXED) else tuple(known)


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
            )
        )
    return requests


def shift_requests(model: Model, steps: int) -> list[TimedRequest]:
    """One half of the shift: the same prompts and seeds whatever `steps`."""
    names = prompts(model)[::-1]
    return [
        TimedRequest(prompt=names[index % len(names)], seed=_FIRST_SEED + 10 * index, steps=steps)
        for index in range(SHOWN)
    ]


def rule_bounds(n_workers: int, margin: float = _MARGIN) -> tuple[float, float]:
    """The loop's shares below which a split serves clearly more, and above which all together does."""
    shares = [i / 1000 for i in range(1001)]
    split = max(share for share in shares if past_boundary(share, n_workers, n_workers, margin))
    join = min(
        share for share in shares if past_boundary(share, n_workers - 1, n_workers, margin) and share > split
    )
    return split, join


def shift_steps(journal: Journal, model: Model, *, n_workers: int) -> ShiftSteps:
    """Steps that lie clearly on both sides of the rule's bounds, from what the stages took in `journal`.

    Raises `CannotShift`.
    """
    served = [span for span in journal.stages if span.job is not None]
    step_s = statistics.median(span.seconds / span.steps for span in served if span.kind == "diffuse")
    others = {span.stage for span in served if span.kind != "diffuse"}
    rest_s = sum(statistics.median(s.seconds for s in served if s.stage == stage) for stage in others)

    def share(steps: int) -> float:
        return steps * step_s / (steps * step_s + rest_s)

    split, join = rule_bounds(n_workers)
    few = max((n for n in range(1, _MAX_FEW_STEPS + 1) if share(n) <= split - _CLEAR), default=1)
    if share(few) >= split:
        raise CannotShift(
            f"a single denoise step is {share(1):.0%} of a picture here, the rule splits below {split:.0%}"
        )
    many = min(2 * model.default_steps, model.max_steps)
    while share(many) < join + _CLEAR and many < model.max_steps:
        many += 1
    return ShiftSteps(few, share(few), many, share(many))


class Shift:
    """The third phase's requests: few-step ones until the stages are split, then many-step ones until not.

    Each half goes on for `after` requests behind its change (a number for each half), and ends after
    `limit_s` without one. A request that failed ends both: there is nothing to show any more.
    """

    def __init__(
        self,
        journal: Path,
        few: Sequence[TimedRequest],
        many: Sequence[TimedRequest],
        *,
        after: tuple[int, int] = (10, 4),
        limit_s: float,
        clock: Clock = time.monotonic,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        self._journal = journal
        self._halves = (few, many)
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
        for half, after, wanted in zip(self._halves, self._after, ("split", "colocated"), strict=True):
            deadline_s = self._clock() + self._limit_s
            changed_at: int | None = None
            for sent, request in zip(count(), cycle(half), strict=False):
                is_placed = self._is_placed(colocated=wanted == "colocated")
                if changed_at is None and is_placed:
                    changed_at = sent
                is_over = changed_at is not None and sent >= changed_at + after
                if self._failed or (is_over and sent >= len(half)) or self._clock() > deadline_s:
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
