"""The tables of `python -m bench batching`."""

from __future__ import annotations

from typing import Any

from bench.markdown import host_line, table


def batching(result: dict[str, Any]) -> str:
    """Throughput by way of batching, and differences by family."""
    width_px, height_px = result["size_px"]
    best = max(result["ways"], key=lambda way: float(way["ratio"]["p50"]))
    n_made = result["n"] * result["repeats"]
    lines = [
        "# Batches",
        "",
        result["question"],
        "",
        f"The best way here is **{best['name']}**: {best['ratio']['p50']:.2f} times the pictures per second"
        f" of one by one (p50 over {result['repeats']} repeats; p20 {best['ratio']['p20']:.2f}, p80"
        f" {best['ratio']['p80']:.2f}).",
        "",
        *table(
            (
                "",
                "pictures/s p20",
                "p50",
                "p80",
                "of one by one p20",
                "p50",
                "p80",
                "CPU s each p50",
                "shared",
                "same bytes",
            ),
            (
                (
                    way["name"],
                    *(f"{way['throughput'][p]:.3f}" for p in _SPREAD),
                    *(f"{way['ratio'][p]:.2f}" for p in _SPREAD),
                    f"{way['cpu_s']['p50']:.3f}",
                    f"{way['shared']} of {n_made}",
                    f"{way['same_bytes']} of {n_made}",
                )
                for way in result["ways"]
            ),
        ),
        "",
        f"No pixel is more than {result['max_levels']} of 255 levels from the picture made alone; a result"
        " with one is not reported. *Joining*: as many at a time, each new one entering the batch when"
        " another leaves, so all are at different steps. *Shared*: how many shared calls of the network with"
        " another; *same bytes*: how many are the same file as alone.",
        "",
        f"{result['model']}, {width_px}x{height_px} px, {result['steps']} steps, seeds from {result['seed']};"
        f" {result['n']} pictures in each of {result['repeats']} repeats, all ways in turns.",
        "",
        "## How far from alone",
        "",
        "Three jobs of other prompts, seeds and guidance, 4 steps, float32, against the same jobs alone: what"
        " their text encoders make together, and the latents behind loops that share calls. The largest"
        " difference, and the largest |a - b| / |b|. Tiny random models of each family, and the embedded"
        " model.",
        "",
        *table(
            (
                *("", "encode, abs", "relative", "lockstep, abs", "relative", "joining, abs", "relative"),
                "largest latent",
            ),
            (
                (
                    row["family"],
                    *(f"{row[way][key]:.1e}" for way in _WAYS for key in ("max_abs", "relative")),
                    f"{row['largest_latent']:.1f}",
                )
                for row in result["differences"]["rows"]
            ),
        ),
        "",
        f"The differences are of commit {result['differences']['commit']}.",
        "",
        host_line(result),
    ]
    return "\n".join([*lines, ""])


_HEADERS = (
    *("", "pictures/s p20", "p50", "p80", "of one by one p20", "p50", "p80"),
    *("CPU s each p50", "shared", "same bytes"),
)
_SPREAD = ("p20", "p50", "p80")
_WAYS = ("encode", "lockstep", "joining")
