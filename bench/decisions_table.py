"""The table of `python -m bench decisions`."""

from __future__ import annotations

from typing import Any

from bench.markdown import host_line, table


def decisions(result: dict[str, Any]) -> str:
    """Times by fleet, beside what is promised."""
    lines = [
        "# Decisions",
        "",
        result["question"],
        "",
        *table(
            ("workers", "jobs", "n", "p20", "p50", "p80", "p99", "promised", "worst", "promised worst"),
            (
                (
                    f"{row['workers']:,}",
                    f"{row['jobs']:,}",
                    f"{row['n']:,}",
                    *(f"{row[name]:.2f}" for name in ("p20_ms", "p50_ms", "p80_ms", "p99_ms")),
                    f"{row['promised_p99_ms']:g}",
                    f"{row['worst_ms']:.2f}",
                    f"{row['promised_worst_ms']:g}",
                )
                for row in result["rows"]
            ),
        ),
        "",
        f"{result['unit']}, policy {result['rows'][0]['policy']}, seed {result['seed']}. {host_line(result)}",
        "",
    ]
    return "\n".join(lines)
