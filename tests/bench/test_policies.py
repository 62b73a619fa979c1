"""What the tables of `bench policies` say of cells that can be added up by hand."""

from __future__ import annotations

from typing import Any

from bench.policies_table import policies


def cell(
    variant: str, block: int, latencies_s: list[float | None], deadline_s: float = 1.0
) -> dict[str, Any]:
    """One picture for each latency; None was dropped."""
    raw = [
        ["64x64", float(i), 504 if s is None else 200, s or 0.5, s is not None and s <= deadline_s]
        for i, s in enumerate(latencies_s)
    ]
    met = sum(bool(row[4]) for row in raw)
    return {
        "variant": variant,
        "load": 0.7,
        "run": 0,
        "block": block,
        "n": len(raw),
        "met": met,
        "attainment": met / len(raw),
        "took_s": 10.0,
        "batched": 0,
        "effects": {"pause": 2},
        "raw": raw,
    }


def told(cells: list[dict[str, Any]]) -> str:
    return policies(
        {
            "question": "?",
            "workers": 2,
            "sides_px": [64],
            "steps": 16,
            "span_s": 40.0,
            "slo_scale": 2.5,
            "alone_s": {"64": 0.3},
            "capacity_per_s": 6.0,
            "runs": 1,
            "blocks": 2,
            "pictures": {
                "bitwise": 8,
                "numeric": 0,
                "most_levels": 0,
                "numeric_without_reference": 0,
            },
            "cells": cells,
            "device": "CPU",
            "cpu": "a CPU",
            "cores": 2,
            "threads": 1,
            "load_average": {"before": 0.1, "after": 2.0},
            "versions": {"python": "3.11"},
            "commit": "0" * 40,
        }
    )


def test_blocks_are_compared_on_the_same_arrivals() -> None:
    text = told(
        [
            # both served the first two: 0.6 s on average and 0.5 s
            cell("triptych", 0, [0.4, 0.8, 0.9, 2.0]),
            cell("fair", 0, [0.6, 0.4, None, None]),
            # and here 0.5 s each
            cell("triptych", 1, [0.4, 0.6, None, 0.5]),
            cell("fair", 1, [0.5, 0.5, 0.5, None]),
            cell("fcfs", 0, [2.0, 2.0, 0.5, 2.0]),
            cell("fcfs", 1, [2.0, 2.0, 0.5, 2.0]),
        ]
    )
    assert (
        "- 0.7: +12.5 points, standard error 12.5 (from 2 blocks, +0.0 to +25.0; above in 1, below in 0)"
        in text
    )
    assert (
        "- 0.7: +10.0 %, standard error 10.0 (from 2 blocks, +0.0 to +20.0; above in 1, below in 0)" in text
    )
    assert "- never below fair at 0.7, in every run (+12.5): met" in text
    assert "- mean at 0.7 below fair's (0.800 s, 0.500 s): missed" in text


def test_what_nobody_served_is_compared_with_nothing() -> None:
    text = told([cell(name, 0, [None, None]) for name in ("triptych", "fair", "fcfs")])
    assert "Mean latency of what both served" not in text
