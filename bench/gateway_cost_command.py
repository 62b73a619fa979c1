"""`python -m bench gateway-cost`: flags to a plan, the numbers to a result and its table."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench import gateway_cost
from bench.device_command import measured_on, write
from bench.interrupts import Interrupted, run_interruptible
from bench.node import CHECKOUT, NodeFailed
from bench.render import render_file

LEVELS = ((1, 300), (64, 1000), (256, 1500))


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench gateway-cost",
        description=(gateway_cost.__doc__ or "").partition("\n\n")[2],
        epilog="exit codes: 0 measured; 1 failed, nothing is written; 2 a wrong flag; 130, 143 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--steps", type=int, default=16, metavar="S", help="messages in a loop (default %(default)s)")
    add("--repeats", type=int, default=3, metavar="R", help="of each level, in turns (default %(default)s)")
    add("--scale", type=float, default=1.0, metavar="F", help="times as many requests (default %(default)s)")
    results = CHECKOUT / "bench" / "results"
    add("--out", type=Path, default=results, metavar="DIR", help="where results go (default bench/results)")
    add(
        "--scratch",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="where journals, logs and profiles go (default %(default)s)",
    )
    return made


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    plan = gateway_cost.Plan(
        model="triptych-emoji",
        levels=tuple((n_open, max(1, round(flags.scale * n))) for n_open, n in LEVELS),
        steps=flags.steps,
        n_repeats=flags.repeats,
        folder=flags.scratch.resolve(),
    )
    load_before = os.getloadavg()[0]
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        measured = run_interruptible(gateway_cost.run(plan, _say), _say)
        _say(write({**measured_on(load_before, 1), **measured}, flags.out, render_file))
    except (NodeFailed, OSError) as error:
        print(f"gateway-cost: FAILED: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"gateway-cost: interrupted ({interrupted}); the gateway has stopped", file=sys.stderr)
        return interrupted.exit_code
    return 0
