"""The table of `python -m bench gateway-cost`."""

from __future__ import annotations

from typing import Any

from bench.markdown import host_line, table


def gateway_cost(result: dict[str, Any]) -> str:
    """Markdown from the raw result."""
    levels = result["levels"]
    parts = dict.fromkeys(part for level in levels for part in level["parts_ms"])
    heads = tuple(f"{level['open']} open" for level in levels)
    lines = [
        "# Cost of the gateway",
        "",
        result["question"],
        "",
        f"A gateway over {result['workers']} workers that answer at once; one picture of {result['steps']}"
        " steps a request, each with a prompt of its own. Processor time is of the gateway's process, all its"
        " threads; requests a second are with client and workers on the same cores; medians of"
        f" {result['repeats']} repeats.",
        "",
        *table(
            ("", *heads),
            [
                ("processor time per request, ms", *(f"{level['cpu_ms']['p50']:.2f}" for level in levels)),
                ("lowest and highest", *(_range(level["cpu_ms_raw"]) for level in levels)),
                ("requests per second", *(f"{level['requests_per_s']['p50']:.0f}" for level in levels)),
                ("latency p50, ms", *(f"{level['latency_ms']['p50']:.0f}" for level in levels)),
            ],
        ),
        "",
        "Where it goes, in ms per request (shares of the event loop's thread under a profiler, scaled to the"
        " processor time above):",
        "",
        *table(
            ("part", *heads),
            ((part, *(f"{level['parts_ms'].get(part, 0.0):.2f}" for level in levels)) for part in parts),
        ),
        "",
        host_line(result),
        "",
    ]
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    return f"{min(values):.2f}-{max(values):.2f}"
