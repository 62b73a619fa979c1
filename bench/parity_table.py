"""The table of `python -m bench parity`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from bench.markdown import host_line, table


def parity(result: dict[str, Any]) -> str:
    """Markdown from the raw result."""
    cells = result["cells"]
    loads = list(dict.fromkeys(cell["load"] for cell in cells))
    alone = ", ".join(f"{size} {seconds:.2f} s" for size, seconds in result["alone_s"].items())
    by_load = [(load, [cell for cell in cells if cell["load"] == load]) for load in loads]
    corrected = ", ".join(f"{stage} {x:.2f} times" for stage, x in result["corrected"].items())
    worst = max(abs(_points(own)) for _, own in by_load)
    verdict = "met" if worst <= result["goal_points"] else "missed"
    lines = [
        "# A live run and its simulation",
        "",
        result["question"],
        "",
        f"{result['model']} on {result['workers']} CPU workers, {result['steps']} steps; by the profile"
        f" that the workers measured a picture alone takes {alone}. Equally many of each at random times over"
        f" {result['span_s']:g} s, in {result['runs']} runs; deadlines 2.5 times that, and what cannot be"
        " on time may be dropped. Simulated from the same arrivals and the profile alone, as"
        f" {result['warm_up_s']:g} s of other arrivals had corrected it: what was measured with one worker"
        f" busy took {corrected} as long with both.",
        "",
        f"The simulated SLO attainment is off by at most **{worst:.1f} points** (means over the runs)."
        f" The goal of at most {result['goal_points']:g} is {verdict}.",
        "",
        *table(_HEADERS, [_row(load, own) for load, own in by_load]),
        "",
        f"All {sum(cell['decisions'] for cell in cells)} decisions of the live gateways were recorded and"
        f" replayed: the same {sum(cell['effects'] for cell in cells)} effects.",
        "",
        host_line(result),
        "",
    ]
    return "\n".join(lines)


_HEADERS = (
    "load",
    "pictures",
    "on time live, %",
    "simulated, %",
    "as measured, %",
    "off by, points",
    "by run",
    "dropped live, %",
    "simulated, %",
    "mean live, s",
    "simulated, s",
    "P95 live, s",
    "simulated, s",
)


def _row(load: float, cells: list[dict[str, Any]]) -> tuple[str, ...]:
    by_run = ", ".join(f"{_points([cell]):+.1f}" for cell in cells)
    attained = (f"{100 * _mean(cells, side, 'attainment'):.1f}" for side in (*_SIDES, "as_measured"))
    dropped = (f"{100 * _mean(cells, side, 'dropped'):.1f}" for side in _SIDES)
    seconds = (f"{_mean(cells, side, of):.2f}" for of in ("mean_s", "p95_s") for side in _SIDES)
    n = str(sum(cell["n"] for cell in cells))
    return (f"{load:g}", n, *attained, f"{_points(cells):+.1f}", by_run, *dropped, *seconds)


_SIDES = ("live", "simulated")


def _points(cells: list[dict[str, Any]]) -> float:
    """The simulated less the live attainment."""
    return 100 * (_mean(cells, "simulated", "attainment") - _mean(cells, "live", "attainment"))


def _mean(cells: list[dict[str, Any]], side: str, of: str) -> float:
    return fmean(cell[side][of] or 0.0 for cell in cells)
