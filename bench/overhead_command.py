"""`python -m bench overhead`: starts both sides, has them measured, writes what came out."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import host, overhead
from bench.interrupts import Interrupted, run_interruptible
from bench.journal import JournalUnreadable, read_journal
from bench.node import CHECKOUT, Node, NodeConfig, NodeFailed
from bench.overhead import LoopResult, Plan, Refused, measure, report
from bench.render import render_file
from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError
from wire.generation import Generation

if TYPE_CHECKING:
    from bench.overhead_loop import PlainLoop

_THREADING = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_")


async def _run(plan: Plan, flags: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    device = "cpu" if flags.gpu is None else f"cuda:{flags.gpu}"
    files = [file.resolve() for file in flags.catalogue]
    config = NodeConfig(
        name="overhead-gateway",
        folder=flags.scratch.resolve(),
        model=plan.name,
        workers=("--cpu", "1") if flags.gpu is None else ("--gpus", str(flags.gpu)),
        placement="colocated",
        # the loop encodes every prompt too, and nothing of the planner's choices hangs on what stages cost
        flags=(
            *("--encode-cache-bytes", "0"),
            *("--profile", "off"),
            *(w for file in files for w in ("--catalogue", str(file))),
        ),
    )
    load_before = os.getloadavg()[0]
    say("starting the gateway with one worker")
    async with Node(config) as node:
        # the loop gets what the worker has of all that decides about threads; read when torch is imported
        threading = {k: v for k, v in node.worker_environment().items() if k.startswith(_THREADING)}
        os.environ.update(threading)
        threads = int(threading["OMP_NUM_THREADS"])
        say(f"loading {plan.name} for the loop: {device}, {threads} threads")
        # one thread for everything, as in the worker: OpenMP has a pool for each thread that ever used it,
        # and with more threads in pools than cores it waits in another way
        with ThreadPoolExecutor(max_workers=1) as executor:
            loop = await asyncio.wrap_future(executor.submit(_make_loop, plan, device, threads))

            def run_loop(generations: list[Generation]) -> Awaitable[Sequence[LoopResult]]:
                return asyncio.wrap_future(executor.submit(loop.run_all, generations))

            repeats = await measure(plan, node.base_url, run_loop, say)
    return {
        "commit": host.commit(),
        "device": loop.device_name,
        "cpu": host.cpu_model(),
        "cores": host.n_cores(),
        "threads": threads,
        "omp_wait_policy": threading.get("OMP_WAIT_POLICY", "default"),
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "versions": host.versions(),
        **report(plan, repeats, read_journal(node.journal)),
    }


def _make_loop(plan: Plan, device: str, threads: int) -> PlainLoop:
    from bench.overhead_loop import PlainLoop

    return PlainLoop(plan.name, plan.model, device, threads)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench overhead",
        description=(overhead.__doc__ or "").partition("\n\n")[2],
        epilog="exit codes: 0 measured; 1 failed or the pictures differ, nothing is written;\n"
        "2 a wrong flag; 130, 143 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--requests",
        type=_positive,
        default=20,
        metavar="N",
        help="per repeat and side (default %(default)s)",
    )
    add("--repeats", type=_positive, default=7, metavar="R", help="turns of both sides (default %(default)s)")
    add("--steps", type=_positive, metavar="S", help="denoise steps (default: the model's)")
    add("--seed", type=int, default=1000, help="of the first picture (default %(default)s)")
    add("--gpu", type=int, metavar="I", help="measure on this GPU instead of the CPU")
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
        help="where the gateway's journal and log go (default %(default)s)",
    )
    return made


def _say(line: str) -> None:
    print(line, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    try:
        model = load_catalogue(*flags.catalogue)[flags.model]
    except PipelineError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 2
    plan = Plan(
        name=flags.model,
        model=model,
        n_requests=flags.requests,
        n_repeats=flags.repeats,
        steps=flags.steps or model.default_steps,
        seed=flags.seed,
    )
    try:
        measured = run_interruptible(_run(plan, flags, _say), _say)
        flags.out.mkdir(parents=True, exist_ok=True)
        raw = flags.out / "overhead.json"
        raw.write_text(json.dumps(measured, indent=1) + "\n", "utf-8")
        rendered = render_file(raw)
    except (Refused, NodeFailed, JournalUnreadable, PipelineError, LookupError, OSError) as error:
        print(f"overhead: FAILED: {error}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        print(f"overhead: interrupted ({interrupted}); the gateway has stopped", file=sys.stderr)
        return interrupted.exit_code
    print(f"\n{rendered.read_text('utf-8')}\nwritten: {raw} and {rendered}")
    return 0
