"""`python -m bench checkpoints`: pauses of one model, or of the embedded one and of each family."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import device_command
from bench.render import render_file
from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError

_MODEL = "triptych-emoji"
_STEPS = 40  # tiny models step faster than a pause can be asked for


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench checkpoints",
        description="What a checkpoint, a pause and a resume cost, and how soon a pause is obeyed: of one"
        " model, or, where none is named, of the embedded one and a tiny one of each family.",
        epilog="exit codes: 0 measured; 1 latents differ or something failed, nothing is written; 2 a wrong"
        " flag",
    )
    made.add_argument("--pauses", type=int, default=10, metavar="N", help="of each model (default 10)")
    made.add_argument("--steps", type=int, metavar="S", help="of --model (its own)")
    device_command.add_model_flags(made, None)
    device_command.add_flags(made)
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if flags.pauses < 1:
        print("checkpoints: --pauses is at least 1", file=sys.stderr)
        return 2
    try:
        catalogue = load_catalogue(*flags.catalogue)
        chosen = catalogue[flags.model] if flags.model else None
    except PipelineError as error:
        print(f"checkpoints: {error}", file=sys.stderr)
        return 2
    device_command.set_threads(flags.threads)
    # after the threads are set
    import torch

    from bench.batching import Refused
    from bench.checkpoints import Plan, measure
    from bench.device_driver import DeviceDriver, DeviceFailed
    from tests.families.tiny import TINY

    torch.set_num_threads(flags.threads)
    load_before = os.getloadavg()[0]
    device = device_command.device_of(flags)
    names = (flags.model,) if chosen else (*TINY, "embedded")
    rows: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for name in names:
                is_tiny = chosen is None and name in TINY
                model = chosen or (TINY[name](folder / name) if is_tiny else catalogue[_MODEL])
                with DeviceDriver(device, folder / f"{name}-store") as driver:
                    plan = Plan(
                        name=name,
                        model=model,
                        steps=_STEPS if is_tiny else flags.steps or model.default_steps,
                        n_pauses=flags.pauses,
                        seed=flags.seed,
                    )
                    rows.append(measure(plan, driver))
                print(f"{name}: {rows[-1]['bytes']} bytes", flush=True)
        result = {
            "benchmark": "checkpoints",
            "question": "What do a checkpoint, a pause and a resume cost, and how soon is a pause obeyed?",
            **device_command.measured_on(load_before, flags.threads, device),
            "model": flags.model,
            "n": flags.pauses,
            "seed": flags.seed,
            "families": rows,
        }
        print(device_command.write(result, flags.out, render_file))
    except (Refused, DeviceFailed, OSError) as error:
        print(f"checkpoints: FAILED: {error}", file=sys.stderr)
        return 1
    return 0
