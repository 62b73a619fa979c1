"""`python -m bench batching`: batches of the embedded model, and differences by family."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import device_command, host
from bench.render import render_file
from pipelines.catalogue import Model, load_catalogue

_MODEL = "triptych-emoji"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench batching",
        description="Pictures a second in batches of the embedded model, in lockstep and joining, against one"
        " by one; and how far latents in a batch are from those alone, for every family of the tests.",
        epilog="exit codes: 0 measured; 1 the pictures differ or something failed, nothing is written;\n"
        "2 a wrong flag",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--pictures", type=int, default=8, metavar="N", help="per turn (default %(default)s)")
    made.add_argument("--repeats", type=int, default=4, metavar="R", help="turns of all ways (default 4)")
    made.add_argument("--steps", type=int, metavar="S", help="denoise steps (default: the model's)")
    made.add_argument(
        "--differences-only",
        action="store_true",
        help="take the differences again, which no neighbour on the host changes, and keep the rest of the"
        " result that is there",
    )
    device_command.add_flags(made)
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if flags.pictures < 8 or flags.pictures % 8 or flags.repeats < 1:
        print("batching: --pictures is a multiple of 8, --repeats at least 1", file=sys.stderr)
        return 2
    device_command.set_threads(flags.threads)
    # after the threads are set
    import torch

    from bench import batching
    from bench.batching_differences import differences
    from bench.device_driver import DeviceDriver, DeviceFailed
    from tests.families.tiny import TINY
    from worker.resident import ResidentModel

    torch.set_num_threads(flags.threads)
    load_before = os.getloadavg()[0]
    model: Model = load_catalogue()[_MODEL]
    stages = ResidentModel(_MODEL, model, torch.device("cpu")).graphs["text"].names
    plan = batching.Plan(
        name=_MODEL,
        model=model,
        stages=stages,
        n_pictures=flags.pictures,
        n_repeats=flags.repeats,
        steps=flags.steps or model.default_steps,
        seed=flags.seed,
    )
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            families = {**TINY, "embedded": lambda _: model}
            rows = {"commit": host.commit(), "rows": differences(families, folder)}
            if flags.differences_only:
                kept = json.loads((flags.out / "batching.json").read_text("utf-8"))
                print(device_command.write({**kept, "differences": rows}, flags.out, render_file))
                return 0
            with DeviceDriver("cpu", folder / "store") as driver:
                driver.load(_MODEL, model, stages)
                repeats = batching.measure(plan, driver, lambda line: print(line, flush=True))
        result = {
            **device_command.measured_on(load_before, flags.threads),
            **batching.report(plan, repeats),
            "differences": rows,
        }
        print(device_command.write(result, flags.out, render_file))
    except (batching.Refused, DeviceFailed, OSError) as error:
        print(f"batching: FAILED: {error}", file=sys.stderr)
        return 1
    return 0
