"""`python -m bench host-weights`: the embedded model from disk and from the node's host copy."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import device_command
from bench.render import render_file
from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError
from wire.generation import Generation

_MODEL = "triptych-emoji"
_STAGES = ("text_encoder", "denoise", "decode")
_HOST_BYTES = 1 << 36
"""A bound that no model of one node reaches."""
_NODE_HOST_BYTES = 1 << 30
"""Of a gateway, which wants the room to be there."""
_SHARED_MEMORY = "/dev/shm"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench host-weights",
        description="Loads from disk against loads from the node's host copy, and the memory of CPU workers,"
        " which a GPU's have no part in.",
        epilog="exit codes: 0 measured; 1 pictures differ or something failed, nothing is written; 2 a wrong"
        " flag",
    )
    made.add_argument("--loads", type=int, default=15, metavar="N", help="each way (default 15)")
    made.add_argument("--workers", type=int, default=3, metavar="N", help="that share a copy (default 3)")
    device_command.add_model_flags(made, _MODEL)
    device_command.add_flags(made)
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if min(flags.loads, flags.workers) < 1:
        print("host-weights: --loads and --workers are at least 1", file=sys.stderr)
        return 2
    try:
        model = load_catalogue(*flags.catalogue)[flags.model]
    except PipelineError as error:
        print(f"host-weights: {error}", file=sys.stderr)
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
    device = device_command.device_of(flags)
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
                DeviceDriver(device, folder / "disk-store") as from_disk,
                DeviceDriver(device, folder / "host-store", host) as from_host,
            ):
                loaded = loads(plan, from_disk, from_host)
        held = [] if device != "cpu" else asyncio.run(_held(flags, memory))
        result = {
            "benchmark": "host_weights",
            "question": "What does one host copy of weights spare: time of a load, and memory of a node?",
            **device_command.measured_on(load_before, flags.threads, device),
            "model": flags.model,
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


async def _held(flags: argparse.Namespace, memory: Callable[..., Awaitable[dict[str, Any]]]) -> list[Any]:
    """What CPU workers hold without and with host copies."""
    found = []
    files = [word for file in flags.catalogue for word in ("--catalogue", str(file.resolve()))]
    for name, n_bytes in {"without host copies": 0, "with one host copy": _NODE_HOST_BYTES}.items():
        more = ("--host-weights-bytes", str(n_bytes), *files)
        with tempfile.TemporaryDirectory() as scratch:
            found.append(await memory(name, Path(scratch), flags.model, flags.workers, more))
    return found
