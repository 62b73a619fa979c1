"""`python -m bench soak`: flags to a plan, the run, its result, plot and verdict."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench import soak
from bench.device_command import measured_on, write
from bench.interrupts import Interrupted, run_interruptible
from bench.node import CHECKOUT, NodeFailed
from bench.render import render_file
from bench.soak_checks import report
from bench.soak_table import plot


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench soak",
        description=(soak.__doc__ or "").partition("\n\n")[2],
        epilog="exit codes: 0 all checks passed; 1 one failed or the gateway did; 2 a wrong flag;\n"
        "130, 143 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--load-s", type=float, default=600.0, metavar="S", help="how long (default %(default)s)")
    add("--idle-s", type=float, default=60.0, metavar="S", help="afterwards (default %(default)s)")
    add("--max-open", type=int, default=64, metavar="N", help="clients at the end (default %(default)s)")
    add("--steps", type=int, default=16, metavar="S", help="denoise steps (default %(default)s)")
    devices = made.add_mutually_exclusive_group()
    devices.add_argument("--cpu", type=int, metavar="N", help="real CPU workers")
    devices.add_argument("--gpus", metavar="LIST", help="real workers, one for each GPU, like 0,1 or 0-7")
    add("--model", default="triptych-emoji", help="a model of the catalogue (default %(default)s)")
    results = CHECKOUT / "bench" / "results"
    add("--out", type=Path, default=results, metavar="DIR", help="where results go (default bench/results)")
    add(
        "--scratch",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="where the gateway's journal and log go (default %(default)s)",
    )
    return made


def _say(line: str) -> None:
    print(line, flush=True)


def _devices(flags: argparse.Namespace) -> tuple[str, ...] | None:
    if flags.gpus is not None:
        return ("--gpus", flags.gpus)
    return None if flags.cpu is None else ("--cpu", str(flags.cpu))


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    plan = soak.Plan(
        model=flags.model,
        devices=_devices(flags),
        load_s=flags.load_s,
        idle_s=flags.idle_s,
        max_open=flags.max_open,
        steps=flags.steps,
        folder=flags.scratch.resolve(),
    )
    load_before = os.getloadavg()[0]
    try:
        outcome = run_interruptible(soak.run(plan, _say), _say)
        result = {**measured_on(load_before, 1), **report(outcome)}
        text = write(result, flags.out, render_file)
        plot(result, flags.out / "soak.png")
        _say(text)
    except (NodeFailed, OSError, TimeoutError) as error:
        print(f"soak: FAILED: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"soak: interrupted ({interrupted}); the gateway has stopped", file=sys.stderr)
        return interrupted.exit_code
    return 0 if result["passed"] else 1
