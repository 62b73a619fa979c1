"""Table and plot of `python -m bench soak`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.markdown import host_line, table

_MIB = 1024**2


def soak(result: dict[str, Any]) -> str:
    """Markdown from the raw result."""
    workers = "real workers" if result["real_workers"] else "workers that answer at once"
    health = result["health_ms"]
    return "\n".join(
        [
            "# Soak",
            "",
            result["question"],
            "",
            f"{result['n']} requests in {result['load_end_s']:.0f} s to {workers}, up to {result['max_open']}"
            f" open at a time, {result['steps']} steps each; then {result['idle_s']:.0f} s idle. `/health`"
            f" was answered within {health['p50']:.1f} ms (p50), {health['p95']:.1f} ms (p95),"
            f" {health['p100']:.1f} ms (longest).",
            "",
            "![What the node held over time](soak.png)",
            "",
            *table(
                ("check", "", "found"),
                ((c["name"], "passed" if c["passed"] else "**FAILED**", c["text"]) for c in result["checks"]),
            ),
            "",
            f"Memory is PSS. {result['model']}. {host_line(result)}",
            "",
        ]
    )


def plot(result: dict[str, Any], file: Path) -> None:
    """Four panels over time: memory, descriptors, shared memory, open requests and lag."""
    from matplotlib.figure import Figure

    raw = result["raw"]
    at_s = [sample["at_s"] for sample in raw]
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    for name in raw[0]["processes"]:
        seen = [(s["at_s"], s["processes"][name]) for s in raw if name in s["processes"]]
        times = [time_s for time_s, _ in seen]
        panels[0].plot(times, [held["pss_bytes"] / _MIB for _, held in seen], label=name)
        panels[1].plot(times, [held["n_descriptors"] for _, held in seen], label=name)
    panels[2].plot(at_s, [s["store_bytes"] / _MIB for s in raw], label="files of jobs")
    panels[2].plot(at_s, [s["kept_bytes"] / _MIB for s in raw], label="known encodes")
    panels[3].plot(at_s, [s["n_open"] for s in raw], label="open requests")
    panels[3].plot(at_s, [s["health_ms"] for s in raw], label="/health, ms")
    titles = ("memory (PSS), MiB", "descriptors", "shared memory, MiB", "requests")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, loc="left", fontsize=9)
        panel.axvline(result["load_end_s"], color="0.7", linewidth=1)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8, loc="upper left")
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("seconds")
    figure.savefig(file, dpi=100)
