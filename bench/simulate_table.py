"""The tables of `python -m bench simulate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.markdown import table

Row = dict[str, Any]
Group = tuple[str, str]
"""Models and arrivals."""


def simulate(result: Row) -> str:
    """Attainment by load, then latencies, GPU-seconds and decisions; means over the seeds."""
    settings = result["settings"]
    runs, bounds = result["runs"], result["bounds"]
    policies = list(dict.fromkeys(row["policy"] for row in runs))
    groups = list(dict.fromkeys(_group(row) for row in runs))
    loads = sorted({row["load"] for row in runs})
    lines = ["# Policies on a simulated fleet", "", result["question"], ""]
    lines += [
        f"{settings['gpus']} GPUs in nodes of {settings['gpus_per_node']},"
        f" costs: {', '.join(result['costs'])};"
        f" {settings['minutes']:g} minutes of arrivals,"
        f" {settings['seeds']} seed{'s' if settings['seeds'] > 1 else ''}; deadlines 2.5 times the latency at"
        f" {'the fastest degree' if settings['fastest_slo'] else 'k*'}."
        f" {_dropping(runs)}",
        "",
        "## On time",
        "",
        "Share of all arrivals, in percent, by load. *Bound*: what no policy can pass (`bench/bound.py`).",
        "",
    ]
    headers = ("", "arrivals", "", *(f"{load:g}" for load in loads))
    rows = []
    for group in groups:
        of_bound = [row for row in bounds if _group(row) == group]
        if of_bound:
            rows.append((*group, "bound", *_by_load(of_bound, loads, _attainment)))
        for policy in policies:
            own = [row for row in runs if _group(row) == group and row["policy"] == policy]
            rows.append((*group, policy, *_by_load(own, loads, _attainment)))
    lines += [*table(headers, _without_repeats(rows)), ""]
    lines += ["## Latency and cost", "", _LATENCY_TEXT, ""]
    rows = []
    for group in groups:
        for load in loads:
            for policy in policies:
                own = [r for r in runs if (_group(r), r["load"], r["policy"]) == (group, load, policy)]
                if own:
                    rows.append((*group, f"{load:g}", policy, *(of(own) for _, of in _COLUMNS)))
    lines += [*table(("", "arrivals", "load", "", *(name for name, _ in _COLUMNS)), rows), ""]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines.append(
        f"{result['cpu']}, {result['processes']} of {result['cores']} cores,"
        f" {result['wall_s'] / 60:.1f} minutes. {versions}. Commit {result['commit']}."
    )
    return "\n".join([*lines, ""])


_LATENCY_TEXT = (
    "Seconds from arrival to the end. *All*: a job that was not served counts as infinite (-). *Not served*:"
    " in percent of arrivals, and which of them did not fit in memory. *Goodput*: jobs on time per second."
    " *GPU-s*: in stages, in thousands. *Places*: how often there was a new reason to load or evict."
    " *Decision*: thread CPU time, ms. *CPU*: seconds of one core for the simulation, decisions included."
)


def _group(row: Row) -> Group:
    return "+".join(row["models"]), row["arrivals"]


def _dropping(runs: Sequence[Row]) -> str:
    names = sorted({row["policy"] for row in runs if row["drops"]})
    return f"Work that cannot be on time is dropped by {', '.join(names)}." if names else "Nobody drops work."


def _attainment(rows: Sequence[Row]) -> str:
    if any(row.get("too_large") for row in rows):
        return "out of memory"
    return f"{100 * _mean([row['attainment'] for row in rows]):.1f}"


def _by_load(
    rows: Sequence[Row], loads: Sequence[float], of: Callable[[Sequence[Row]], str]
) -> tuple[str, ...]:
    by_load = [[row for row in rows if row["load"] == load] for load in loads]
    return tuple(of(own) if own else "" for own in by_load)


def _latency(over: str, which: str) -> Callable[[Sequence[Row]], str]:
    def of(rows: Sequence[Row]) -> str:
        values = [row[over][which] for row in rows]
        return "-" if None in values else f"{_mean(values):.1f}"

    return of


def _number(key: str, form: str = "{:.0f}") -> Callable[[Sequence[Row]], str]:
    return lambda rows: form.format(_mean([row[key] for row in rows]))


def _stages(rows: Sequence[Row]) -> str:
    """E/D/C and the rest, in thousands of GPU-seconds."""
    names = ("text_encoder", "denoise", "decode")
    parts = [_mean([row["gpu_s"].get(name, 0.0) for row in rows]) for name in names]
    parts.append(_mean([sum(s for name, s in row["gpu_s"].items() if name not in names) for row in rows]))
    return " / ".join(f"{part / 1000:.1f}" for part in parts)


_COLUMNS: tuple[tuple[str, Callable[[Sequence[Row]], str]], ...] = (
    ("mean, served", _latency("served", "mean")),
    ("P50", _latency("served", "p50")),
    ("P95", _latency("served", "p95")),
    ("P99", _latency("served", "p99")),
    ("P50, all", _latency("all", "p50")),
    ("P95", _latency("all", "p95")),
    ("P99", _latency("all", "p99")),
    ("not served", lambda rows: f"{100 * _mean([row['dropped_share'] for row in rows]):.1f}"),
    ("out of memory", lambda rows: f"{100 * _mean([_oom_share(row) for row in rows]):.1f}"),
    ("goodput", _number("goodput_per_s", "{:.2f}")),
    ("GPU-s E / D / C / other", _stages),
    ("pauses", _number("pauses")),
    ("places", _number("replacements")),
    ("decision p50", lambda rows: _decision(rows, "p50")),
    ("p99", lambda rows: _decision(rows, "p99")),
    ("max", lambda rows: _decision(rows, "max")),
    ("CPU", _number("cpu_s", "{:.1f}")),
)


def _oom_share(row: Row) -> float:
    share: float = row["outcomes"]["out_of_memory"] / max(1, row["n"])
    return share


def _decision(rows: Sequence[Row], which: str) -> str:
    values = [row["decision_ms"].get(which, 0.0) for row in rows]
    return f"{max(values) if which == 'max' else _mean(values):.2f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _without_repeats(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first two columns only where they change."""
    shown: list[tuple[str, ...]] = []
    before: tuple[str, ...] = ()
    for row in rows:
        shown.append(("", "", *row[2:]) if row[:2] == before else row)
        before = row[:2]
    return shown
