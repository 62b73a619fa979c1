"""`python -m bench chaos`: flags to a plan, the run, its result and verdict."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bench import chaos
from bench.chaos_checks import report
from bench.device_command import measured_on, write
from bench.interrupts import Interrupted, run_interruptible
from bench.node import CHECKOUT, NodeFailed
from bench.render import render_file
from gateway.config import cpu_workers, n_cores, parse_gpus
from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench chaos",
        description=(chaos.__doc__ or "").partition("\n\n")[2],
        epilog="exit codes: 0 all checks passed; 1 one failed or a gateway did; 2 a wrong flag;\n"
        "130, 143 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--requests", type=int, default=200, metavar="N", help="at least (default %(default)s)")
    add("--kills", type=int, default=2, metavar="N", help="at least (default %(default)s)")
    add("--every-s", type=float, default=20.0, metavar="S", help="between two kills (default %(default)s)")
    add("--concurrency", type=int, metavar="N", help="requests at a time (default: 3 for each worker)")
    add("--heartbeat-timeout-s", type=float, default=5.0, metavar="S", help="(default %(default)s)")
    add("--seed", type=int, default=0, help="of the load and of the kills (default %(default)s)")
    devices = made.add_mutually_exclusive_group()
    devices.add_argument("--cpu", type=int, default=3, metavar="N", help="CPU workers (default %(default)s)")
    devices.add_argument("--gpus", metavar="LIST", help="GPUs, one worker each, like 0,1 or 0-7")
    add("--model", default="triptych-emoji", help="a model of the catalogue (default %(default)s)")
    add(
        "--catalogue", type=Path, action="append", default=[], metavar="FILE", help="a further catalogue file"
    )
    results = CHECKOUT / "bench" / "results"
    add("--out", type=Path, default=results, metavar="DIR", help="where results go (default bench/results)")
    add(
        "--scratch",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="where the gateways' journals and logs go (default %(default)s)",
    )
    return made


def _say(line: str) -> None:
    print(line, flush=True)


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    files = [file.resolve() for file in flags.catalogue]
    try:
        model = load_catalogue(*files)[flags.model]
    except PipelineError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    n_workers = len(parse_gpus(flags.gpus)) if flags.gpus else flags.cpu
    plan = chaos.Plan(
        name=flags.model,
        model=model,
        devices=("--gpus", flags.gpus) if flags.gpus else ("--cpu", str(flags.cpu)),
        n_workers=n_workers,
        n_requests=flags.requests,
        min_kills=flags.kills,
        kill_every_s=flags.every_s,
        concurrency=flags.concurrency or 3 * n_workers,
        heartbeat_timeout_s=flags.heartbeat_timeout_s,
        seed=flags.seed,
        folder=flags.scratch.resolve(),
        flags=tuple(word for file in files for word in ("--catalogue", str(file))),
    )
    load_before = os.getloadavg()[0]
    try:
        outcome = run_interruptible(chaos.run(plan, _say), _say)
        threads = 1 if flags.gpus else cpu_workers(n_workers, cores=n_cores())[0].threads
        result = {**measured_on(load_before, threads), **report(outcome)}
        _say(write(result, flags.out, render_file))
    except (NodeFailed, OSError, TimeoutError) as error:
        print(f"chaos: FAILED: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"chaos: interrupted ({interrupted}); the gateway has stopped", file=sys.stderr)
        return interrupted.exit_code
    return 0 if result["passed"] else 1
