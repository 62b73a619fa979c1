"""`python -m bench host-weights`: the embedded model from disk and from the node's host copy."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from bench import device_command
from bench.render import render_file
from pipelines.catalogue import load_catalogue
from wire.generation import Generation

_MODEL = "triptych-emoji"
_STAGES = ("text_encoder", "denoise", "decode")
_HOST_BYTES = 1 << 30
_SHARED_MEMORY = "/dev/shm"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench host-weights",
        description="Loads from disk against loads from the node's host copy, and the memory of workers.",
        epilog="exit codes: 0 measured; 1 pictures differ or something failed, nothing is written; 2 a wrong"
        " flag",
    )
    made.add_argument("--loads", type=int, default=15, metavar="N", help="each way (default 15)")
    made.add_argument("--workers", type=int, default=3, metavar="N", help="that share a copy (default 3)")
    device_command.add_flags(made)
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if min(flags.loads, flags.workers) < 1:
        print("host-weights: --loads and --workers are at least 1", file=sys.stderr)
        return 2
    device_command.set_threads(flags.threads)
    # after the threads are set
    import torch

    from bench.device_driver import DeviceDriver, DeviceFailed
    from bench.host_weights import Plan, Refused, loads, memory
    from bench.node import NodeFailed
    from worker.host_folder import HostFolder

    torch.set_num_threads(flags.threads)
    load_before = os.getloadavg()[0]
    model = load_catalogue()[_MODEL]
    width_px, height_px = model.default_size_px
    generation = Generation(
        prompt="a red apple",
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=4,
        guidance_scale=model.default_guidance,
        seed=flags.seed,
    )
    plan = Plan(model=model, stages=_STAGES, generation=generation, n_loads=flags.loads)
    try:
        with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY) as scratch:
            folder = Path(scratch)
            host = HostFolder(folder / "weights", _HOST_BYTES)
            with (
                DeviceDriver("cpu", folder / "disk-store") as from_disk,
                DeviceDriver("cpu", folder / "host-store", host) as from_host,
            ):
                loaded = loads(plan, from_disk, from_host)
        ways = {"without host copies": "0", "with one host copy": str(_HOST_BYTES)}
        with tempfile.TemporaryDirectory() as scratch:
            held = [
                asyncio.run(
                    memory(name, Path(scratch), _MODEL, flags.workers, ("--host-weights-bytes", n_bytes))
                )
                for name, n_bytes in ways.items()
            ]
        result = {
            "benchmark": "host_weights",
            "question": "What does one host copy of weights spare: time of a load, and memory of a node?",
            **device_command.measured_on(load_before, flags.threads),
            "model": _MODEL,
            "n": flags.loads,
            "seed": flags.seed,
            "loads": loaded,
            "memory": held,
        }
        print(device_command.write(result, flags.out, render_file))
    except (Refused, DeviceFailed, NodeFailed, OSError) as error:
        print(f"host-weights: FAILED: {error}", file=sys.stderr)
        return 1
    return 0
