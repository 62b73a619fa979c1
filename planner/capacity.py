"""How much of the demand a placement can serve: the rate at which its scarcest parts keep up.

Work is taken to be divisible: a second of a part can be done on any worker that holds it. Then a placement
serves `rate` times the demand if and only if no choice K of parts asks for more than the workers that hold
some part of K have, so

    rate = min over K of (workers that hold a part of K) / (demand of K)

which is Hall's condition, or a minimum cut between parts and workers. Only those K matter that are "all parts
held by no worker outside A" for a choice A of worker sets, and a fleet has few different sets: 2^sets choices
instead of 2^parts.

A set of parts is an integer with bit i for part i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_SETS = 10
"""With more different sets on a fleet, the rarest are taken together as one that holds what any of them does,
which may overstate the rate: 2^10 choices take about a millisecond."""

_TIE = 1e-9
"""Rates that differ by less, relatively, are equal: they come from sums in another order."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """`rate`: times the demand of all parts that have a home. `short`: the parts that bound it, all of them.

    `homeless`: the parts that no worker holds, and `homeless_s` their demand.
    """

    rate: float
    short: int
    homeless: int
    homeless_s: float
    short_s: float

    def is_better_than(self, other: Capacity) -> bool:
        """Less demand without a home, else a higher rate, else less that is short at that rate."""
        for ours, theirs in (
            (-self.homeless_s, -other.homeless_s),
            (self.rate, other.rate),
            (-self.short_s, -other.short_s),
        ):
            if abs(ours - theirs) > _TIE * max(abs(ours), abs(theirs)):
                return ours > theirs
        return False


def capacity(counts: Mapping[int, int], demand_s: Sequence[float]) -> Capacity:
    """`counts`: workers by the set of parts that they hold. `demand_s`: of each part, all above 0.

    The rate is infinite where no part has a home.
    """
    used = _merged({held: n for held, n in counts.items() if n and held})
    hosts = [
        sum(1 << i for i, (held, _) in enumerate(used) if held >> part & 1) for part in range(len(demand_s))
    ]
    homeless = sum(1 << part for part, of_part in enumerate(hosts) if not of_part)
    n_choices = 1 << len(used)
    workers, demand = [0] * n_choices, [0.0] * n_choices
    for part, of_part in enumerate(hosts):
        if of_part:
            demand[of_part] += demand_s[part]
    for i, (_, n) in enumerate(used):
        bit = 1 << i
        for choice in range(n_choices):
            if choice & bit:
                workers[choice] += n
                demand[choice] += demand[choice ^ bit]
    rate, short_s, chosen = float("inf"), 0.0, 0
    for choice in range(1, n_choices):
        asked_s = demand[choice]
        if asked_s <= 0.0:
            continue
        served = workers[choice] / asked_s
        # the union of two scarcest choices is one too, so the one that asks for most has them all
        if served < rate * (1 - _TIE) or (served <= rate * (1 + _TIE) and asked_s > short_s):
            rate, short_s, chosen = served, asked_s, choice
    short = sum(1 << part for part, of_part in enumerate(hosts) if of_part and not of_part & ~chosen)
    homeless_s = sum(demand_s[part] for part, of_part in enumerate(hosts) if not of_part)
    return Capacity(rate, short, homeless, homeless_s, short_s)


def _merged(counts: Mapping[int, int]) -> list[tuple[int, int]]:
    used = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(used) <= MAX_SETS:
        return used
    rare = used[MAX_SETS - 1 :]
    any_of = 0
    for held, _ in rare:
        any_of |= held
    return [*used[: MAX_SETS - 1], (any_of, sum(n for _, n in rare))]
