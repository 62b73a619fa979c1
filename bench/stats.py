"""Percentiles and spreads. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], q: float) -> float:
    """The `q`-th percentile, q in 0..100, linear between neighbours. Raises `ValueError` for none."""
    if not values:
        raise ValueError("no values")
    if not 0 <= q <= 100:
        raise ValueError(f"{q} is not between 0 and 100")
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentiles(values: Sequence[float], *qs: float) -> dict[str, float]:
    """ "p50" and so on, in the unit of `values`; empty without values."""
    return {f"p{q:g}": percentile(values, q) for q in qs} if values else {}
