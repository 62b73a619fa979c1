"""The tables of `python -m bench rivals`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.markdown import table
from bench.rivals.goals import PROVISIONAL, Verdict, verdicts
from bench.rivals.grid import B1, BOUND, OURS, STUDIES, TRIDENT
from bench.rivals.rows import Place, Row, Table, from_list

_PUBLISHED = (
    # model, SLO attainment, mean and P95 in seconds: of a static server of whole pipelines, of TridentServe
    ("sd3", (0.24, 36.0, 99.0), (0.95, 10.0, 28.0)),
    ("cogvideox", (0.15, 320.0, 550.0), (0.86, 78.0, 230.0)),
)
"""Source: TridentServe (arXiv 2510.02838), on 128 L20."""

_RATES = {"cogvideox": "1.50"}
"""Requests a second of the traces published with TridentServe's code, where one is known."""

_MAX_SHOWN = 12
"""Of the cells that miss a goal."""


def rows_of(result: dict[str, Any]) -> list[Row]:
    return [from_list(values) for values in result["rows"]]


def rivals(result: dict[str, Any]) -> str:
    """Of the whole grid: goals, then what they are checked on. Of a study: its figures by world."""
    grid = Table(rows_of(result))
    lines = [f"# {_TITLES.get(result['plan'], 'All policies on simulated GPUs')}", "", result["question"], ""]
    lines += [_setting(result), ""]
    if result["plan"] in STUDIES:
        lines += _study(grid)
    else:
        lines += _goals(verdicts(grid, view=result["view"]), result)
        lines += _figures(grid)
        lines += _published(grid, result["minutes"])
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines.append(
        f"{result['cpu']}, {result['processes']} of {result['cores']} cores, {result['cpu_s'] / 60:.0f}"
        f" minutes of CPU, {result['wall_s'] / 60:.0f} minutes. {versions}. Commit {result['commit']}."
    )
    return "\n".join([*lines, ""])


_TITLES = {
    "parts": "Parts of the planner, one off at a time",
    "costs": "Other costs of encode and decode",
    "resume": "Other costs of going on from a checkpoint",
    "error": "A wrong profile",
    "scale": "Larger fleets",
}


def _setting(result: dict[str, Any]) -> str:
    minutes = ", ".join(f"{model} {minutes:g}" for model, minutes in result["minutes"].items())
    parts = [
        f"{result['gpus']} L20 GPUs in nodes of eight, {_VIEWS[result['view']]}. Costs: published steps,"
        f" derived encode, decode and loads (`bench/costs_l20.py`).",
        f"Minutes of arrivals: {minutes}; {result['seeds']} seed{'s' if result['seeds'] > 1 else ''}, of"
        f" which figures are the means.",
        f"Deadline: 2.5 times the latency at {'the fastest degree' if result['fastest_slo'] else 'k*'}.",
        "Nobody drops work."
        if result["nobody_drops"]
        else "Work that cannot be on time is dropped by triptych, fair and lego, which also refuses at"
        " arrival; the others serve it late.",
    ]
    return " ".join(parts)


_VIEWS = {
    "resident": "every worker holding everything (no bound on memory)",
    "48gb": "48 GB each, which begin empty a minute before the first arrival",
}


def _goals(found: Sequence[Verdict], result: dict[str, Any]) -> list[str]:
    lines = ["## Goals", ""]
    if result["nobody_drops"] or result["fastest_slo"]:
        return [*lines, "They are set in the first view, where deadlines are from k* and we drop.", ""]
    lines += [
        "*Cells* that a goal asks about (model, arrivals, load), how many of them meet it, and by how much"
        " the worst of the others misses it: in points of attainment, percent, or times what it is compared"
        f" with. Goals of {', '.join(sorted(PROVISIONAL))} are provisional, counted beside (in brackets).",
        "",
    ]
    rows = []
    for verdict in found:
        firm = [m for m in verdict.margins if m.place.model not in PROVISIONAL]
        loose = [m for m in verdict.margins if m.place.model in PROVISIONAL]
        rows.append(
            (
                verdict.goal.text,
                f"{len(firm)} ({len(loose)})",
                f"{sum(m.is_met for m in firm)} ({sum(m.is_met for m in loose)})",
                "**met**" if not verdict.missed else f"missed, {_by(verdict)}",
            )
        )
    lines += [*table(("goal", "cells", "met", ""), rows), ""]
    for verdict in found:
        if verdict.missed:
            lines += [f"Missed: {verdict.goal.text}.", ""]
            lines += [
                f"- {miss.place}: {miss.against}; by {_amount(-miss.by, verdict.goal.unit)}"
                for miss in verdict.missed[:_MAX_SHOWN]
            ]
            if len(verdict.missed) > _MAX_SHOWN:
                lines.append(f"- and {len(verdict.missed) - _MAX_SHOWN} more")
            lines.append("")
    return lines


def _by(verdict: Verdict) -> str:
    return f"at worst by {_amount(-verdict.missed[0].by, verdict.goal.unit)} ({verdict.missed[0].place})"


def _amount(by: float, unit: str) -> str:
    return f"{by:.2f} {unit}"


def _figures(grid: Table) -> list[str]:
    """A table for each model and figure: a row for each policy, a column for each arrivals and load."""
    lines: list[str] = []
    for title, text, column, form in _FIGURES:
        lines += [f"## {title}", "", text, ""]
        for model in dict.fromkeys(place.model for place in grid.places):
            places = [place for place in grid.places if place.model == model]
            headers = (model, *(f"{place.arrivals} {place.load:g}" for place in places))
            policies = [policy for policy in grid.policies if policy != BOUND or column == "attainment"]
            shown = [(p, *(_figure(grid, place, p, column, form) for place in places)) for p in policies]
            lines += [*table(headers, shown), ""]
    lines += _costs(grid)
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}"


_FIGURES: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    (
        "On time",
        "SLO attainment in percent of all arrivals. *bound*: what no policy can pass (`bench/bound.py`)."
        " *OOM*: whole pipelines do not fit, so nothing was simulated.",
        "attainment",
        _percent,
    ),
    ("Mean", "Latency of served requests in seconds.", "mean_s", _seconds),
    ("P95", "Latency of served requests in seconds.", "p95_s", _seconds),
    (
        "Not served",
        "In percent of all arrivals: dropped, refused, or not before the end.",
        "unserved",
        _percent,
    ),
)


def _figure(grid: Table, place: Place, policy: str, column: str, form: Callable[[float], str]) -> str:
    if grid.is_too_large(place, policy):
        return "OOM"
    value = grid.figure(place, policy, column)
    if value is None:
        return "-"
    is_best = column == "attainment" and policy in B1 and grid.best_b1(place) == policy
    return f"**{form(value)}**" if is_best else form(value)


def _costs(grid: Table) -> list[str]:
    """Everything else that is told of a simulation, at load 1.0."""
    lines = [
        "## Everything else, at load 1.0",
        "",
        "Latencies in seconds: of served requests, and of all arrivals, of which one that was not served"
        " counts as infinite (-). *Goodput*: on time per second. *GPU-s*: in stages and in all else,"
        " in thousands. *Places*: new reasons to load or evict. *Decision*: thread CPU time in ms. Of the"
        " static baseline the best degree.",
        "",
    ]
    headers = ("", "arrivals", "", *(name for name, _ in _COLUMNS))
    rows = []
    for place in grid.places:
        if place.load != 1.0:
            continue
        for policy in grid.policies:
            hidden = policy == BOUND or (policy in B1 and policy != grid.best_b1(place))
            if not hidden and not grid.is_too_large(place, policy) and grid.rows(place, policy):
                shown = (of(grid, place, policy) for _, of in _COLUMNS)
                rows.append((place.model, place.arrivals, policy, *shown))
    return [*lines, *table(headers, rows), ""]


_Of = Callable[[Table, Place, str], str]


def _plain(column: str, form: str = "{:.1f}") -> _Of:
    def of(grid: Table, place: Place, policy: str) -> str:
        value = grid.figure(place, policy, column)
        return "-" if value is None else form.format(value)

    return of


def _stages(grid: Table, place: Place, policy: str) -> str:
    columns = ("gpu_s_encode", "gpu_s_loop", "gpu_s_decode", "gpu_s_other")
    return " / ".join(f"{(grid.figure(place, policy, column) or 0.0) / 1000:.1f}" for column in columns)


_COLUMNS: tuple[tuple[str, _Of], ...] = (
    ("P50, served", _plain("p50_s")),
    ("P95", _plain("p95_s")),
    ("P99", _plain("p99_s")),
    ("P50, all", _plain("all_p50_s")),
    ("P95", _plain("all_p95_s")),
    ("P99", _plain("all_p99_s")),
    ("goodput", _plain("goodput_per_s", "{:.2f}")),
    ("GPU-s E / D / C / other", _stages),
    ("pauses", _plain("pauses", "{:.0f}")),
    ("places", _plain("replacements", "{:.0f}")),
    ("decision p50", _plain("decision_p50_ms", "{:.2f}")),
    ("p99", _plain("decision_p99_ms", "{:.2f}")),
    ("CPU s", _plain("cpu_s")),
)


def _published(grid: Table, minutes: Mapping[str, float]) -> list[str]:
    """The published pairs beside ours, on the arrivals that come nearest to the published traces."""
    rows = []
    for model, static, trident in _PUBLISHED:
        for place in (place for place in grid.places if (place.model, place.arrivals) == (model, "even")):
            if grid.rows(place, TRIDENT):
                best = grid.best_b1(place) or B1[0]
                rate = (grid.figure(place, TRIDENT, "n") or 0.0) / (60 * minutes[model])
                shown = (_pair(grid, place, policy) for policy in (best, TRIDENT, OURS))
                rows.append((model, f"{place.load:g}", f"{rate:.2f}", *shown))
        rows.append((model, "published", _RATES.get(model, ""), _three(*static), _three(*trident), ""))
    if not any(row[1] != "published" for row in rows):
        return []
    return [
        "## Beside the published pairs",
        "",
        "SLO attainment, mean and P95 in seconds, evenly spaced arrivals. SD3's published rate is not known,"
        " nor what encode and decode took there; the published static server has one degree for all"
        " traffic, ours the best one. So the pairs compare in kind, not in seconds.",
        "",
        *table(("", "load", "requests/s", "B1 at its best degree", "TridentServe", "triptych"), rows),
        "",
    ]


def _pair(grid: Table, place: Place, policy: str) -> str:
    figures = [grid.figure(place, policy, column) for column in ("attainment", "mean_s", "p95_s")]
    return f"{policy}: {_three(*figures)}" if policy in B1 else _three(*figures)


def _three(attainment: float | None, mean_s: float | None, p95_s: float | None) -> str:
    if attainment is None or mean_s is None or p95_s is None:
        return "-"
    return f"{attainment:.2f} / {mean_s:.0f} / {p95_s:.0f}"


def _study(grid: Table) -> list[str]:
    """On time and mean by world and policy; a column for each model, arrivals and load."""
    worlds = tuple(dict.fromkeys(place.world for place in grid.places))
    cells = tuple(dict.fromkeys(place[1:] for place in grid.places))
    lines: list[str] = []
    for title, column, form in (
        ("On time, percent", "attainment", _percent),
        ("Mean of served requests, seconds", "mean_s", _seconds),
        ("P95 of served requests, seconds", "p95_s", _seconds),
        ("Decision p50, ms", "decision_p50_ms", "{:.2f}".format),
        ("Decision p99, ms", "decision_p99_ms", "{:.2f}".format),
    ):
        lines += [f"## {title}", ""]
        for model in dict.fromkeys(cell[0] for cell in cells):
            own = [cell for cell in cells if cell[0] == model]
            headers = (model, "", *(f"{arrivals} {load:g}" for _, arrivals, load in own))
            lines += [*table(headers, _study_rows(grid, worlds, own, column, form)), ""]
    return lines


def _study_rows(
    grid: Table,
    worlds: Iterable[str],
    cells: Sequence[tuple[str, str, float]],
    column: str,
    form: Callable[[float], str],
) -> Iterable[tuple[str, ...]]:
    for world in worlds:
        for policy in grid.policies:
            if policy == BOUND and column != "attainment":
                continue
            yield (
                world,
                policy,
                *(_figure(grid, Place(world, *cell), policy, column, form) for cell in cells),
            )
