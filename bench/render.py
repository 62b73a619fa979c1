"""`python -m bench render`: tables from raw results, and from nothing else."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.batching_table import batching
from bench.chaos_table import chaos
from bench.checkpoints_table import checkpoints
from bench.decisions_table import decisions
from bench.gateway_cost_table import gateway_cost
from bench.host_weights_table import host_weights
from bench.kernel_code_table import kernel_code
from bench.kernels_table import kernels, kernels_cpu
from bench.markdown import table as _table
from bench.overhead_parts import LOOP_PARTS, PARTS
from bench.parity_table import parity
from bench.policies_table import policies
from bench.rivals_table import rivals
from bench.simulate_table import simulate
from bench.soak_table import soak

RESULTS = Path(__file__).with_name("results")
GOAL_RATIO = 0.95


class CannotRender(Exception):
    """A file is no result that is known here."""


def render_file(raw: Path) -> Path:
    """Write the table of the JSON file `raw` beside it as .md; returns that file. Raises `CannotRender`."""
    text = rendered(raw)
    file = raw.with_suffix(".md")
    file.write_text(text, "utf-8")
    return file


def rendered(raw: Path) -> str:
    """The table of the JSON file `raw`. Raises `CannotRender`."""
    try:
        result = json.loads(raw.read_text("utf-8"))
        return _RENDERERS[result["benchmark"]](result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotRender(f"{raw}: {error!r}") from error


def overhead(result: dict[str, Any]) -> str:
    """The table of `python -m bench overhead`."""
    throughput, total, parts = result["throughput"], result["total"], result["parts"]
    ratio = throughput["ratio"]
    verdict = "met" if ratio["p50"] >= GOAL_RATIO else "missed"
    lines = [
        "# Overhead of serving",
        "",
        result["question"],
        "",
        f"Throughput through the gateway is **{ratio['p50']:.3f}** of the loop's (p50 over"
        f" {result['repeats']} repeats; p20 {ratio['p20']:.3f}, p80 {ratio['p80']:.3f}). The goal of at least"
        f" {GOAL_RATIO} is {verdict}.",
        "",
        *_table(
            ("", "p20", "p50", "p80"),
            (
                (f"{side}, {result['throughput_unit']}", *(f"{throughput[side][p]:.3f}" for p in _SPREAD))
                for side in ("gateway", "loop")
            ),
        ),
        "",
        "Where a request's time goes, in ms:",
        "",
        *_table(
            ("gateway", "p50", "p95"),
            [_row(part, parts["gateway"][part]) for part in PARTS] + [_row("**total**", total["gateway"])],
        ),
        "",
        *_table(
            ("loop", "p50", "p95"),
            [_row(part, parts["loop"][part]) for part in LOOP_PARTS] + [_row("**total**", total["loop"])],
        ),
        "",
        "Percentiles are taken part by part, so they do not add up to the total's.",
        "",
        *_circumstances(result),
    ]
    return "\n".join([*lines, ""])


_SPREAD = ("p20", "p50", "p80")
_RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "batching": batching,
    "chaos": chaos,
    "gateway_cost": gateway_cost,
    "checkpoints": checkpoints,
    "decisions": decisions,
    "host_weights": host_weights,
    "kernel_code": kernel_code,
    "kernels": kernels,
    "kernels_cpu": kernels_cpu,
    "overhead": overhead,
    "parity": parity,
    "policies": policies,
    "rivals": rivals,
    "simulate": simulate,
    "soak": soak,
}


def _row(name: str, percentiles: dict[str, float]) -> tuple[str, ...]:
    return (name, f"{percentiles['p50']:.2f}", f"{percentiles['p95']:.2f}")


def _circumstances(result: dict[str, Any]) -> list[str]:
    width_px, height_px = result["size_px"]
    load = result["load_average"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        f"{result['model']}, {width_px}x{height_px} px, {result['steps']} steps, seeds from {result['seed']};"
        f" n = {result['n']} requests, one at a time, in each of {result['repeats']} repeats, both sides in"
        f" turns. All {result['n_pictures_compared']} pictures were the same bytes on both sides.",
        "",
        f"{result['device']} ({result['cpu']}, {result['cores']} cores), {result['threads']} threads on both"
        f" sides (OMP_WAIT_POLICY: {result['omp_wait_policy']}); load average {load['before']} before,"
        f" {load['after']} after. {versions}. Commit {result['commit']}.",
    ]


def main(argv: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="bench render", description="Render raw results (JSON) as tables.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all of bench/results")
    files: list[Path] = parser.parse_args(argv).files or sorted(RESULTS.glob("*.json"))
    try:
        for file in files:
            print(render_file(file))
    except CannotRender as error:
        print(f"render: {error}", file=sys.stderr)
        return 1
    return 0
