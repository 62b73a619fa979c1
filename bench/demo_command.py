"""`python -m bench demo`: flags to configuration, signals to a stop, problems to a line and an exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench import demo_report
from bench.demo import Demo, DemoConfig, StartNode, run, start_node
from bench.interrupts import Interrupted, run_interruptible
from bench.journal import JournalUnreadable
from bench.node import NodeFailed
from bench.progress import make_console
from bench.room import CannotShift
from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError

_DESCRIPTION = """\
Starts a gateway three times with two workers, sends each a small load and shows what became of it:
co-located stages, stages split by hand (the same pictures, byte for byte), and the gateway moving stages
by itself while pictures become too large for the workers' memory. Takes a few minutes on two cores."""
_EPILOG = (
    """exit codes: 0 all shown; 1 a check failed or a gateway did; 2 a wrong flag; 130, 143 interrupted."""
)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench demo",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    devices = made.add_mutually_exclusive_group()
    devices.add_argument("--gpus", metavar="LIST", help="GPUs like 0,1 or 0-7; the first two are used")
    devices.add_argument("--cpu", type=int, metavar="N", help="use the CPU; always with 2 workers (default)")
    made.add_argument(
        "--model", default="triptych-emoji", help="a model of the catalogue (default %(default)s)"
    )
    made.add_argument(
        "--catalogue", type=Path, action="append", default=[], metavar="FILE", help="a further catalogue file"
    )
    made.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="where results go (default %(default)s)",
    )
    return made


def configuration(flags: argparse.Namespace, console: Console) -> DemoConfig:
    """Raises `PipelineError` for an unknown model or a bad catalogue, `ValueError` for a bad list of GPUs."""
    files = [file.resolve() for file in flags.catalogue]
    gpus = [] if flags.gpus is None else first_gpus(flags.gpus)
    if len(gpus) == 2:
        workers, ids = ("--gpus", f"{gpus[0]},{gpus[1]}"), (f"gpu-{gpus[0]}", f"gpu-{gpus[1]}")
    else:
        if flags.gpus is not None:
            console.print("One GPU is one worker and the demo needs two: it runs on the CPU.")
        elif flags.cpu not in (None, 2):
            console.print(f"The demo shows two workers: it starts 2, not {flags.cpu}.")
        workers, ids = ("--cpu", "2"), ("cpu-0", "cpu-1")
    return DemoConfig(
        name=flags.model,
        model=load_catalogue(*files)[flags.model],
        workers=workers,
        worker_ids=ids,
        out=flags.out.resolve(),
        flags=tuple(word for file in files for word in ("--catalogue", str(file))),
    )


def first_gpus(text: str) -> list[int]:
    """The first two of "0,1,4-7". Raises `ValueError`."""
    indices: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    if not indices or len(set(indices)) != len(indices):
        raise ValueError(f"{text!r} names no GPU, or one twice")
    return indices[:2]


def main(argv: list[str], *, start: StartNode = start_node) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    console = make_console()
    try:
        config = configuration(flags, console)
        demo_report.clear(config.out)
    except (PipelineError, ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    console.print(f"Triptych: {config.name} on two workers, {' and '.join(config.worker_ids)}")
    try:
        demo = run_interruptible(run(config, console, start=start), console.print)
    except Interrupted as interrupted:
        print(f"demo: interrupted ({interrupted}); the gateway has stopped", file=sys.stderr)
        return interrupted.exit_code
    except (NodeFailed, CannotShift, JournalUnreadable) as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return 1
    try:
        return _finish(demo, config, console)
    except KeyboardInterrupt:
        print("demo: interrupted while drawing; no gateway runs", file=sys.stderr)
        return 130


def _finish(demo: Demo, config: DemoConfig, console: Console) -> int:
    try:
        files = demo_report.write(demo, config.out)
    except OSError as error:
        print(f"demo: FAILED: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    demo_report.show(demo, console)
    console.print(f"\n{demo.took_s:.0f} s in all. Look at:")
    for file in (*files, config.out / "pictures"):
        console.print(f"  {file}", markup=False, soft_wrap=True)
    for check in demo.checks:
        if not check.passed:
            print(f"demo: FAILED: {check.text}", file=sys.stderr)
    return 0 if demo.passed else 1
