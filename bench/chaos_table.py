"""The table of `python -m bench chaos`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.markdown import host_line, table


def chaos(result: dict[str, Any]) -> str:
    """Markdown from the raw result."""
    kills = result["kills"]
    lines = [
        "# Chaos",
        "",
        result["question"],
        "",
        f"{result['n']} mixed requests ({result['n_pictures']} pictures, {result['concurrency']} at a time)"
        f" to {result['workers']} workers in {result['took_s']:.0f} s, {len(kills)} kills, one about every"
        f" {result['kill_every_s']:g} s while all workers were ready: SIGKILL and SIGSTOP in turns.",
        "",
        *table(
            ("check", "", "found"),
            ((c["name"], "passed" if c["passed"] else "**FAILED**", c["text"]) for c in result["checks"]),
        ),
        "",
        *table(
            ("kill", "n", "noticed after, s", "ready again after, s"),
            (
                _kind_row(how, [kill for kill in kills if kill["how"] == how])
                for how in sorted({kill["how"] for kill in kills})
            ),
        ),
        "",
        f"Median, and the longest in brackets. A hang is noticed by the heartbeat, whose bound was"
        f" {result['heartbeat_timeout_s']:g} s. A worker is ready again when it has imported torch, loaded"
        " every stage and run each of them once.",
        "",
        "Retries of a job: " + ", ".join(f"{n:.0f} {why}" for why, n in result["retries"].items() if n) + ".",
        "",
        *table(
            ("latency, s", "p20", "p50", "p80", "p95"),
            (
                (name, *(f"{spread[p]:.2f}" for p in ("p20", "p50", "p80", "p95")))
                for name, spread in result["latency_s"].items()
            ),
        ),
        "",
        f"{result['model']}, seed {result['seed']}. {host_line(result)}",
        "",
    ]
    return "\n".join(lines)


def _kind_row(how: str, kills: list[dict[str, Any]]) -> tuple[str, ...]:
    return (
        how,
        str(len(kills)),
        _spread(kill["noticed_s"] for kill in kills),
        _spread(kill["recovery_s"] for kill in kills),
    )


def _spread(seconds: Iterable[float | None]) -> str:
    known = sorted(value for value in seconds if value is not None)
    return f"{known[len(known) // 2]:.2f} ({known[-1]:.2f})" if known else "-"
