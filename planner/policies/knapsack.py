"""Who gets how much of one capacity, for the most value: a multiple-choice knapsack, solved exactly.

Each item is left out or taken in one of its choices, of a whole size and a value above 0. A dynamic programme
over items and capacity takes n x C x choices steps, about 5 ms for 200 items with three choices each and a
capacity of 128. Most real instances are cheaper:

- If all can have their best choice, they do.
- Items with one choice of size 1 need no programme: the best of them come first, whatever is left for them.

Rejected: an integer program by a solver (milliseconds to start, and a dependency of the core).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

Choice = tuple[int, float]
"""A size and what it is worth."""

Row = list[float]


def best_choices(items: Sequence[Sequence[Choice]], capacity: int) -> list[int | None]:
    """The size that each item gets, None for none. Of equal solutions the one with earlier items."""
    useful = [_useful(choices, capacity) for choices in items]
    got: list[int | None] = [choices[-1][0] if choices else None for choices in useful]
    if sum(size or 0 for size in got) <= capacity:
        return got
    got = [None] * len(items)
    single = [place for place, choices in enumerate(useful) if len(choices) == 1 and choices[0][0] == 1]
    single.sort(key=lambda place: -useful[place][0][1])
    worth = [0.0, *accumulate(useful[place][0][1] for place in single[:capacity])]
    worth += [worth[-1]] * (capacity + 1 - len(worth))
    others = [
        place for place, choices in enumerate(useful) if choices and (len(choices) > 1 or choices[0][0] > 1)
    ]
    rows = _rows([useful[place] for place in others], capacity)
    left = max(range(capacity + 1), key=lambda size: rows[-1][size] + worth[capacity - size])
    for place in single[: capacity - left]:
        got[place] = 1
    for number in range(len(others) - 1, -1, -1):
        before, after = rows[number], rows[number + 1]
        if after[left] == before[left]:
            continue
        place = others[number]
        size = next(s for s, value in useful[place] if s <= left and before[left - s] + value == after[left])
        got[place] = size
        left -= size
    return got


def _useful(choices: Sequence[Choice], capacity: int) -> list[Choice]:
    """By size, without those that a smaller one is as good as."""
    kept: list[Choice] = []
    for size, value in sorted(choices):
        if size <= capacity and (not kept or value > kept[-1][1]):
            if kept and kept[-1][0] == size:
                kept.pop()
            kept.append((size, value))
    return kept


def _rows(items: Sequence[Sequence[Choice]], capacity: int) -> list[Row]:
    """Row i: the most value of the first i items by capacity."""
    row = [0.0] * (capacity + 1)
    rows = [row]
    for choices in items:
        best = row
        for size, value in choices:
            head = best[:size]
            best = head + [
                taken if (taken := before + value) > so_far else so_far
                for before, so_far in zip(row, best[size:], strict=False)
            ]
        row = best
        rows.append(row)
    return rows
