"""The tables of `python -m bench policies`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from bench.markdown import host_line, table

_COLUMNS = ("in time", "by run", "mean s", "P95 s", "good/s", "not served", "batched", "pauses")


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
        f" {result['steps']} steps, equally many of each, at random times over {result['span_s']:g} s;"
        f" deadlines {result['slo_scale']:g} times what a size takes with both workers busy"
        f" ({alone}). Load 1.0 is {result['capacity_per_s']:.2f} pictures a second."
        f" {result['runs']} runs in turns, the same arrivals for all."
        " Latencies are of what was served; first come, first served drops nothing.",
        "",
    ]
    for load in loads:
        lines += [f"## Load {load:g}", "", *_table(cells, main, load), ""]
        if parts := [name for name in names if name not in main and _rows(cells, name, load)]:
            lines += [
                "One part of triptych switched off:",
                "",
                *_table(cells, ["triptych", *parts], load),
                "",
            ]
    lines += [*_goals(cells, loads), ""]
    lines += [
        f"{found['bitwise']} pictures said bitwise and were the same bytes wherever a request was made twice;"
        f" {found['numeric']} shared calls and were off by at most {found['most_levels']} of 255 levels"
        f" ({found['numeric_without_reference']} more had none to be compared with).",
        "",
        host_line(result),
        "",
    ]
    return "\n".join(lines)


def _table(cells: list[dict[str, Any]], names: list[str], load: float) -> list[str]:
    return table(("", *_COLUMNS), [_row(name, _rows(cells, name, load)) for name in names])


def _rows(cells: list[dict[str, Any]], name: str, load: float) -> list[dict[str, Any]]:
    found = [cell for cell in cells if cell["variant"] == name and cell["load"] == load]
    return sorted(found, key=lambda cell: cell["run"])


def _row(name: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return (
        name,
        f"{_mean(rows, 'attainment'):.1%}",
        ", ".join(f"{row['attainment']:.1%}" for row in rows),
        f"{_mean(rows, 'mean_s'):.2f}",
        f"{_mean(rows, 'p95_s'):.2f}",
        f"{_mean(rows, 'goodput_per_s'):.2f}",
        f"{_mean(rows, 'dropped'):.1%}",
        f"{sum(row['batched'] for row in rows) / sum(row['n'] for row in rows):.0%}",
        f"{fmean(row['effects']['pause'] for row in rows):.0f}",
    )


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return fmean([row[name] for row in rows if row[name] is not None] or [0.0])


def _goals(cells: list[dict[str, Any]], loads: list[float]) -> list[str]:
    """What was to be shown, run by run."""
    ours, fair, fcfs = ({load: _rows(cells, n, load) for load in loads} for n in ("triptych", "fair", "fcfs"))

    def all_runs(load: float, others: dict[float, list[dict[str, Any]]], *, strictly: bool) -> bool:
        pairs = zip(ours[load], others[load], strict=True)
        return all(
            a["attainment"] > b["attainment"] if strictly else a["attainment"] >= b["attainment"]
            for a, b in pairs
        )

    told = [
        (f"in time more often than fcfs at {load:g}, in every run", all_runs(load, fcfs, strictly=True))
        for load in loads[1:]
    ]
    told += [
        (f"never below fair at {load:g}, in every run", all_runs(load, fair, strictly=False))
        for load in loads
    ]
    first = loads[0]
    told.append(
        (f"mean at {first:g} below fair's", _mean(ours[first], "mean_s") < _mean(fair[first], "mean_s"))
    )
    return ["Goals:", "", *(f"- {text}: {'met' if met else 'missed'}" for text, met in told)]
