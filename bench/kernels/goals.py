"""Goals as code: what a result must show, and whether it does. Pure arithmetic over rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.kernels.rows import Row
from bench.stats import percentile

_BACKENDS = ("flash", "efficient", "cudnn", "math")
_LONG_TOKENS = 4096


@dataclass(frozen=True)
class Verdict:
    """`met`: None where nothing was measured for it."""

    goal: str
    met: bool | None
    told: str


def median_s(row: Row, variant: str) -> float | None:
    """None if the variant was not measured."""
    times = row.times_s.get(variant)
    return percentile(times, 50) if times else None


def ratio(row: Row, variant: str, over: str) -> float | None:
    """How many times faster `variant` is than `over`, medians; None if one was not measured."""
    ours, theirs = median_s(row, variant), median_s(row, over)
    return None if ours is None or theirs is None else theirs / ours


def best_backend(row: Row) -> str | None:
    """Torch's fastest of those that took the shape."""
    measured = {name: seconds for name in _BACKENDS if (seconds := median_s(row, name)) is not None}
    return min(measured, key=lambda name: measured[name]) if measured else None


def n_tokens(row: Row) -> float:
    """Of an attention row, from its products and bytes: the mean of queries and keys that the shorter
    decides.
    """
    return 2 * row.n_flop / row.n_bytes if row.n_bytes else 0.0


def verdicts(rows: list[Row]) -> list[Verdict]:
    """All goals, in the order in which they are told."""
    attention = [row for row in rows if row.section == "attention"]
    by_name = {row.name: row for row in rows if row.section == "decode"}
    default = {row.name: r for row in attention if (r := ratio(row, "kernel", "torch")) is not None}
    best = {
        row.name: r
        for row in attention
        if n_tokens(row) >= _LONG_TOKENS
        and (name := best_backend(row)) is not None
        and (r := ratio(row, "kernel", name)) is not None
    }
    plain = {
        name: r for name, row in by_name.items() if (r := ratio(row, "kernels", "diffusers")) is not None
    }
    compiled = {
        name: r for name, row in by_name.items() if (r := ratio(row, "kernels", "compiled")) is not None
    }
    peaks = {
        name: row.peak_bytes["diffusers"] / row.peak_bytes["kernels"]
        for name, row in by_name.items()
        if re.match("2048 px", name) and row.peak_bytes.get("kernels")
    }
    held = {
        name: row.quality["kernels"] - row.quality["diffusers"]
        for name, row in by_name.items()
        if "kernels" in row.quality
    }
    return [
        _at_least("attention is never slower than torch's default", default, 1.0),
        _at_least("attention is at least 0.85 of torch's best backend from 4,096 tokens", best, 0.85),
        _at_least("a decode is 3.3 times as fast as diffusers' own", plain, 3.3),
        _at_least("a decode is 1.3 times as fast as what torch compiles", compiled, 1.3),
        _at_least("a decode at 2048 px needs half of the memory", peaks, 2.0),
        _at_least("a decode's picture is as exact as diffusers', but for 0.5 dB", held, -0.5),
    ]


def _at_least(goal: str, values: dict[str, float], bound: float) -> Verdict:
    if not values:
        return Verdict(goal, None, "not measured")
    worst = min(values, key=lambda name: values[name])
    return Verdict(
        goal, values[worst] >= bound, f"{values[worst]:.2f} at worst ({worst}), {len(values)} rows"
    )
