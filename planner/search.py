"""How many workers hold which parts: the counts with the best capacity, found by moving workers.

A placement is counts of workers by (room, set of parts). The search starts with one set everywhere and moves
power-of-two groups of workers, then ever smaller ones, to sets with a part that is short from sets without
one: nothing else can raise the rate. Co-located sets come first among equals, and a split is only taken where
it serves clearly more than the best choice of whole models. One set that holds everything needs no search.

Rejected: an integer program (a solver in the planner, for a handful of counts), and shares of requests
rounded to workers (they know of no memory and of no second model).

Source: the types of virtual replicas from TridentServe (arXiv 2510.02838), which weighs them by requests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from planner.capacity import Capacity, capacity
from planner.parts import Part
from planner.rooms import Room

SPLIT_GAIN = 0.05
"""By how much a split must serve more than whole models do: about what the handing over may cost."""

FEW = 250
"""Placements of a small fleet that are simply all tried: two workers with two models have 210 at most."""

Counts = Mapping[tuple[int, int], int]
"""Workers by (room, set of parts). A set of 0 is a worker that holds nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`demand_s`: GPU-seconds a second of each part, all above 0; `asked_s`: what is truly asked for."""

    parts: tuple[Part, ...]
    demand_s: tuple[float, ...]
    asked_s: float
    rooms: tuple[Room, ...]

    @property
    def fits_everywhere(self) -> bool:
        """Whether every worker can hold all that any of them can, and all of it whole models."""
        return all(room.options == room.whole and len(room.options) == 1 for room in self.rooms)

    @property
    def best_rate(self) -> float:
        """What no placement of these workers can exceed."""
        n_workers = sum(len(room.workers) for room in self.rooms)
        return n_workers / sum(self.demand_s) if self.demand_s else math.inf

    def covered_s(self, held: int) -> float:
        """The demand of a set of parts."""
        return sum(seconds for i, seconds in enumerate(self.demand_s) if held >> i & 1)

    def rates(self, counts: Counts) -> list[float]:
        """Workers over demand of each part by itself, the least first."""
        workers = [0] * len(self.parts)
        for (_, held), n in counts.items():
            for part in range(len(workers)):
                if held >> part & 1:
                    workers[part] += n
        return sorted(n / seconds for n, seconds in zip(workers, self.demand_s, strict=True))

    def capacity(self, counts: Counts) -> Capacity:
        by_set: dict[int, int] = {}
        for (_, held), n in counts.items():
            by_set[held] = by_set.get(held, 0) + n
        return capacity(by_set, self.demand_s)


def from_scratch(problem: Problem) -> Counts:
    """The best counts for a fleet that holds nothing.

    Where memory cannot hold one of everything, whole models: one that is not whole serves nothing.
    """
    sizes = [len(room.workers) for room in problem.rooms]
    if problem.fits_everywhere:
        return _uniform(problem, sizes, [room.whole for room in problem.rooms])
    whole = _climbed(problem, _uniform(problem, sizes, [room.whole for room in problem.rooms]), whole=True)
    split = _best_of_few(problem) or _climbed(
        problem, _uniform(problem, sizes, [room.options for room in problem.rooms])
    )
    ours, theirs = problem.capacity(whole), problem.capacity(split)
    if theirs.homeless:
        return whole if any(held for _, held in whole) else split
    earns = ours.homeless or theirs.rate > (1 + SPLIT_GAIN) * ours.rate
    return _loosened(problem, split) if earns else whole


def completed(problem: Problem, kept: Counts) -> Counts:
    """`kept` with sets for the workers that it leaves out, and no part without a home that could have one.

    Kept workers are moved for the latter only, one at a time.
    """
    if not any(held for _, held in kept):
        return from_scratch(problem)
    sizes = [len(room.workers) for room in problem.rooms]
    for (room, _), n in kept.items():
        sizes[room] -= n
    rest = _climbed(problem, _uniform(problem, sizes, [room.options for room in problem.rooms]), fixed=kept)
    counts = _sum(kept, rest)
    return _climbed(problem, counts, until_housed=True) if problem.capacity(counts).homeless else counts


def improved(problem: Problem, counts: Counts) -> Counts:
    """Counts that serve more, reached from `counts` by moves that each serve more; `counts` if none does."""
    return _climbed(problem, counts)


def _loosened(problem: Problem, counts: Counts) -> Counts:
    """Counts that serve as much, with more workers for the parts that have fewest for what is asked of them.

    What bounds the rate may be all workers together, however few of them hold one part. But the mix will
    change, and what is asked of each part by itself should then have room to grow.
    """
    now, reached = dict(counts), problem.capacity(counts)
    step = 1 << max(now.values(), default=1).bit_length() - 1
    while step:
        best, found = problem.rates(now), None
        for (room, held), n in sorted(now.items()):
            for other in problem.rooms[room].options if n >= step else ():
                moved = _moved(now, (room, held), (room, other), step)
                rates = problem.rates(moved)
                if rates > best and not reached.is_better_than(problem.capacity(moved)):
                    best, found = rates, moved
        if found is None:
            step //= 2
        else:
            now = found
    return now


def _best_of_few(problem: Problem) -> Counts | None:
    """The best counts of all, where they are `FEW`: on two workers one move at a time may stop early.

    Of equals the first, which are the co-located ones. None where there are more.
    """
    if len(problem.rooms) != 1 or not problem.rooms[0].options:
        return None
    (room,) = problem.rooms
    n_workers, n_options = len(room.workers), len(room.options)
    if math.comb(n_workers + n_options - 1, n_workers) > FEW:
        return None
    best: tuple[Capacity, Counts] | None = None
    for chosen in combinations_with_replacement(room.options, n_workers):
        counts = {(0, held): n for held, n in Counter(chosen).items()}
        found = problem.capacity(counts)
        if best is None or found.is_better_than(best[0]):
            best = found, counts
    return best[1] if best else None


def _uniform(
    problem: Problem, sizes: Sequence[int], options: Sequence[Sequence[int]]
) -> dict[tuple[int, int], int]:
    """All workers of a room on its set that covers most of the demand; of equals the first."""
    return {
        (place, max(of_room, key=problem.covered_s, default=0)): n
        for place, (n, of_room) in enumerate(zip(sizes, options, strict=True))
        if n
    }


def _climbed(
    problem: Problem,
    counts: Counts,
    *,
    fixed: Counts | None = None,
    whole: bool = False,
    until_housed: bool = False,
) -> dict[tuple[int, int], int]:
    """`counts` after the best moves. `fixed` workers count and are not moved."""
    now, still = dict(counts), fixed or {}
    reached = problem.capacity(_sum(now, still))
    options = [room.whole if whole else room.options for room in problem.rooms]
    possible = _union(held for of_room in options for held in of_room)
    step = 1 if until_housed else 1 << max(now.values(), default=1).bit_length() - 1
    while step:
        homeless = reached.homeless & possible
        if until_housed and not homeless:
            break
        best = _best(problem, _single_moves(now, options, homeless, reached.short, step), still, reached)
        if best is None and step == 1 and homeless:
            best = _best(problem, _double_moves(now, options, homeless), still, reached)
        if best is None:
            step //= 2
        else:
            reached, now = best
    return now


def _best(
    problem: Problem, moves: Iterable[dict[tuple[int, int], int]], still: Counts, than: Capacity
) -> tuple[Capacity, dict[tuple[int, int], int]] | None:
    """The first of the best counts among `moves`; None if none is better `than` that."""
    best = None
    for moved in moves:
        found = problem.capacity(_sum(moved, still))
        if found.is_better_than(best[0] if best else than):
            best = found, moved
    return best


def _single_moves(
    now: Counts, options: Sequence[Sequence[int]], homeless: int, short: int, step: int
) -> Iterator[dict[tuple[int, int], int]]:
    """`step` workers that gain a part without a home, or one that is short and that they had none of."""
    wanted = homeless or short
    for (room, held), n in sorted(now.items()):
        if n < step or (held & wanted and not homeless):
            continue
        for other in options[room]:
            if other & wanted and other != held:
                yield _moved(now, (room, held), (room, other), step)


def _double_moves(
    now: Counts, options: Sequence[Sequence[int]], homeless: int
) -> Iterator[dict[tuple[int, int], int]]:
    """One worker gains a part without a home and another one takes on what it gives up."""
    for room, held in sorted(now):
        for other in options[room]:
            if not other & homeless or other == held:
                continue
            once = _moved(now, (room, held), (room, other), 1)
            for of_room, before in sorted(once):
                for more in options[of_room]:
                    if more & held & ~other and more != before:
                        yield _moved(once, (of_room, before), (of_room, more), 1)


def _moved(
    counts: Counts, source: tuple[int, int], target: tuple[int, int], n: int
) -> dict[tuple[int, int], int]:
    moved = dict(counts)
    moved[source] -= n
    moved[target] = moved.get(target, 0) + n
    if not moved[source]:
        del moved[source]
    return moved


def _union(sets: Iterable[int]) -> int:
    parts = 0
    for held in sets:
        parts |= held
    return parts


def _sum(ours: Counts, theirs: Counts) -> dict[tuple[int, int], int]:
    total = dict(ours)
    for key, n in theirs.items():
        total[key] = total.get(key, 0) + n
    return total
