"""The tables of `python -m bench policies`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from bench.markdown import host_line, table
from bench.stats import percentile

_COLUMNS = ("in time", "by run", "mean s", "P95 s", "good/s", "not served", "batched", "pauses")
_STATUS, _LATENCY = 2, 3
"""Where they are in a cell's raw rows."""


def policies(result: dict[str, Any]) -> str:
    """Markdown from the raw result."""
    cells = result["cells"]
    loads = list(dict.fromkeys(cell["load"] for cell in cells))
    names = list(dict.fromkeys(cell["variant"] for cell in cells))
    main = [name for name in names if not name.startswith("without ")]
    found = result["pictures"]
    alone = ", ".join(f"{side} px {seconds:.2f} s" for side, seconds in result["alone_s"].items())
    lines = [
        "# Policies on real workers",
        "",
        result["question"],
        "",
        f"{result['workers']} workers, pictures of {', '.join(map(str, result['sides_px']))} px and"
        f" {result['steps']} steps, equally many of each, at random times over blocks of"
        f" {result['span_s']:g} s;"
        f" deadlines {result['slo_scale']:g} times what a size takes with both workers busy"
        f" ({alone}). Load 1.0 is {result['capacity_per_s']:.2f} pictures a second."
        f" {result['runs']} runs of {result['blocks']} blocks; all get the arrivals of a block, in turns,"
        " before the next begins."
        " Latencies are of what was served; first come, first served drops nothing.",
        "",
    ]
    for load in loads:
        lines += [f"## Load {load:g}", "", *_table(cells, main, load), ""]
        if parts := [name for name in names if name not in main and _cells(cells, name, load)]:
            alike = {_block(cell) for cell in _cells(cells, parts[0], load)}
            shared = [cell for cell in cells if _block(cell) in alike]
            lines += [
                f"One part of triptych switched off, in {len(alike)} of the blocks (places does nothing here,"
                " and shows the noise):",
                "",
                *_table(shared, ["triptych", *parts], load),
                "",
            ]
    lines += [*_differences(cells, loads), "", *_latencies(cells, loads), "", *_goals(cells, loads), ""]
    lines += [
        f"{found['bitwise']} pictures said bitwise and were the same bytes wherever a request was made twice;"
        f" {found['numeric']} shared calls and were off by at most {found['most_levels']} of 255 levels"
        f" ({found['numeric_without_reference']} more had none to be compared with).",
        "",
        host_line(result),
        "",
    ]
    return "\n".join(lines)


Cells = Sequence[dict[str, Any]]


def _table(cells: Cells, names: Sequence[str], load: float) -> list[str]:
    return table(("", *_COLUMNS), [_row(name, _cells(cells, name, load)) for name in names])


def _cells(cells: Cells, name: str, load: float) -> Cells:
    """By run and block."""
    found = [cell for cell in cells if cell["variant"] == name and cell["load"] == load]
    return sorted(found, key=_block)


def _block(cell: dict[str, Any]) -> tuple[int, int]:
    return cell["run"], cell["block"]


def _by_run(cells: Cells) -> list[Cells]:
    return [list(blocks) for _, blocks in groupby(cells, key=lambda cell: cell["run"])]


def _row(name: str, cells: Cells) -> tuple[str, ...]:
    served_s = _served_s(cells)
    return (
        name,
        f"{_attained(cells):.1%}",
        ", ".join(f"{_attained(blocks):.1%}" for blocks in _by_run(cells)),
        f"{fmean(served_s or [0.0]):.2f}",
        f"{percentile(served_s or [0.0], 95):.2f}",
        f"{sum(cell['met'] for cell in cells) / sum(cell['took_s'] for cell in cells):.2f}",
        f"{1 - len(served_s) / _n(cells):.1%}",
        f"{sum(cell['batched'] for cell in cells) / _n(cells):.0%}",
        f"{fmean(cell['effects']['pause'] for cell in cells):.0f}",
    )


def _n(cells: Cells) -> int:
    return sum(cell["n"] for cell in cells)


def _attained(cells: Cells) -> float:
    """Of all arrivals."""
    met: int = sum(cell["met"] for cell in cells)
    return met / _n(cells)


def _served_s(cells: Cells) -> list[float]:
    return [latency_s for cell in cells for _, _, status, latency_s, _ in cell["raw"] if status == 200]


def _differences(cells: Cells, loads: Sequence[float]) -> list[str]:
    """Ours against fair, block by block: what is more than the machine's noise."""
    told = []
    for load in loads:
        points = [100 * (ours["attainment"] - fair["attainment"]) for ours, fair in _pairs(cells, load)]
        told.append(f"- {load:g}: {_spread(points, 'points')}")
    return ["In time, triptych less fair on the same arrivals:", "", *told]


def _latencies(cells: Cells, loads: Sequence[float]) -> list[str]:
    """Of what both served: the mean over all that was served is longer for who serves more of the late."""
    told = []
    for load in loads:
        both = [
            [
                (mine[_LATENCY], other[_LATENCY])
                for mine, other in zip(ours["raw"], fair["raw"], strict=True)
                if mine[_STATUS] == other[_STATUS] == 200
            ]
            for ours, fair in _pairs(cells, load)
        ]
        points = [
            100 * (sum(mine_s for mine_s, _ in block) / sum(other_s for _, other_s in block) - 1)
            for block in both
            if block
        ]
        if points:
            told.append(f"- {load:g}: {_spread(points, '%')}")
    if told:
        told = ["Mean latency of what both served, triptych over fair on the same arrivals:", "", *told]
    return told


def _pairs(cells: Cells, load: float) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Ours and fair, block by block."""
    return list(zip(_cells(cells, "triptych", load), _cells(cells, "fair", load), strict=True))


def _spread(points: Sequence[float], unit: str) -> str:
    error = stdev(points) / sqrt(len(points)) if len(points) > 1 else float("nan")
    return (
        f"{fmean(points):+.1f} {unit}, standard error {error:.1f} (from {len(points)} blocks,"
        f" {min(points):+.1f} to {max(points):+.1f}; above in {sum(point > 0 for point in points)},"
        f" below in {sum(point < 0 for point in points)})"
    )


def _goals(cells: Cells, loads: Sequence[float]) -> list[str]:
    """What was to be shown, run by run."""
    ours, fair, fcfs = (
        {load: _cells(cells, name, load) for load in loads} for name in ("triptych", "fair", "fcfs")
    )

    def worst(load: float, others: dict[float, Cells]) -> float:
        """In points, of all runs."""
        pairs = zip(_by_run(ours[load]), _by_run(others[load]), strict=True)
        return min(100 * (_attained(mine) - _attained(other)) for mine, other in pairs)

    told = []
    for load in loads[1:]:
        points = worst(load, fcfs)
        told.append((f"in time more often than fcfs at {load:g}, in every run ({points:+.1f})", points > 0))
    for load in loads:
        points = worst(load, fair)
        told.append((f"never below fair at {load:g}, in every run ({points:+.1f})", points >= 0))
    mine_s, fair_s = (fmean(_served_s(those[loads[0]]) or [0.0]) for those in (ours, fair))
    told.append((f"mean at {loads[0]:g} below fair's ({mine_s:.3f} s, {fair_s:.3f} s)", mine_s < fair_s))
    return [
        "Goals, with the points of the run that is worst for triptych:",
        "",
        *(f"- {text}: {'met' if met else 'missed'}" for text, met in told),
    ]
