"""`python -m bench policies`: flags to a plan, the cells to a result and its tables."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench import host, policies
from bench.device_command import measured_on, write
from bench.interrupts import Interrupted, run_interruptible
from bench.node import CHECKOUT, NodeFailed
from bench.policies_check import WrongPictures
from bench.render import render_file
from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench policies",
        description=(policies.__doc__ or "").partition("\n\n")[2],
        epilog="exit codes: 0 measured; 1 failed, nothing is written; 2 a wrong flag; 130, 143 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", default="triptych-emoji", help="a model of the catalogue (default %(default)s)")
    add("--catalogue", type=Path, action="append", default=[], metavar="FILE", help="a further catalogue")
    add("--steps", type=int, metavar="S", help="steps of each picture (the model's own)")
    add("--span-s", type=float, default=40.0, metavar="S", help="of a block's arrivals (default %(default)s)")
    add("--runs", type=int, default=3, metavar="R", help="of every load (default %(default)s)")
    add("--blocks", type=int, default=3, metavar="B", help="of a run, at each load (default %(default)s)")
    add("--rounds", type=int, default=8, metavar="N", help="each size is timed before (default %(default)s)")
    add("--seed", type=int, default=1, help="of arrivals and pictures (default %(default)s)")
    add(
        "--parts-runs",
        type=int,
        default=1,
        metavar="R",
        help="with parts off, 0 for none (default %(default)s)",
    )
    add("--profile-bound-s", type=float, default=20.0, metavar="S", help="of measuring (default %(default)s)")
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
    files = [file.resolve() for file in flags.catalogue]
    if min(flags.runs, flags.blocks, flags.rounds) < 1 or flags.span_s <= 0:
        print("policies: --runs, --blocks, --rounds and --span-s are above 0", file=sys.stderr)
        return 2
    try:
        model = load_catalogue(*files)[flags.model]
    except PipelineError as error:
        print(f"policies: {error}", file=sys.stderr)
        return 2
    plan = policies.Plan(
        name=flags.model,
        model=model,
        folder=flags.scratch.resolve(),
        steps=flags.steps or model.default_steps,
        span_s=flags.span_s,
        n_runs=flags.runs,
        n_blocks=flags.blocks,
        n_parts_runs=flags.parts_runs,
        n_rounds=flags.rounds,
        seed=flags.seed,
        profile_bound_s=flags.profile_bound_s,
        flags=tuple(word for file in files for word in ("--catalogue", str(file))),
    )
    load_before = os.getloadavg()[0]
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        measured = run_interruptible(policies.run(plan, _say), _say)
        threads = max(1, host.n_cores() // policies.N_WORKERS)
        _say(write({**measured_on(load_before, threads), **measured}, flags.out, render_file))
    except (NodeFailed, WrongPictures, OSError) as error:
        print(f"policies: FAILED: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"policies: interrupted ({interrupted}); the gateway has stopped", file=sys.stderr)
        return interrupted.exit_code
    return 0
