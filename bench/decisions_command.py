"""`python -m bench decisions`: how long the planner takes for one decision, by size of the fleet."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from bench import device_command
from bench.decisions import CASES, measure
from bench.node import CHECKOUT
from bench.render import render_file
from planner.policies import POLICIES

QUESTION = (
    "How much thread CPU time does one `decide` take, garbage collection included, on nodes of eight workers"
    " with a queue of mixed sizes?"
)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench decisions",
        description="Thread CPU time of single decisions on fleets of 8, 128 and 1,024 workers.",
        epilog="exit codes: 0 measured and within what is promised; 1 slower than that; 2 a wrong flag",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--policy", default="triptych", choices=sorted(POLICIES), help="(default %(default)s)")
    made.add_argument("--decisions", type=int, default=1000, metavar="N", help="per fleet (default 1000)")
    made.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    made.add_argument(
        "--out",
        type=Path,
        default=CHECKOUT / "bench" / "results",
        metavar="DIR",
        help="where results go (default bench/results)",
    )
    return made


def report(rows: list[dict[str, Any]], seed: int, load_before: float) -> dict[str, Any]:
    """The raw result."""
    return {
        "benchmark": "decisions",
        "question": QUESTION,
        "unit": "ms of thread CPU time",
        "seed": seed,
        **device_command.measured_on(load_before, threads=1),
        "rows": rows,
    }


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if flags.decisions < 1:
        print("decisions: --decisions is at least 1", file=sys.stderr)
        return 2
    load_before = os.getloadavg()[0]
    rows = []
    for case in CASES:
        rows.append(measure(case, flags.policy, flags.decisions, flags.seed))
        print(f"{case.workers} workers: p99 {rows[-1]['p99_ms']:.2f} ms", flush=True)
    print(device_command.write(report(rows, flags.seed, load_before), flags.out, render_file))
    kept = (
        row["p99_ms"] <= row["promised_p99_ms"] and row["worst_ms"] <= row["promised_worst_ms"]
        for row in rows
    )
    return 0 if all(kept) else 1
