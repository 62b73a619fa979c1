"""What the commands that measure a device loop in this process have in common."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import host
from bench.node import CHECKOUT


def set_threads(threads: int) -> None:
    """As a worker's supervisor does; before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})


def measured_on(load_before: float, threads: int, device: str = "cpu") -> dict[str, Any]:
    """The circumstances, as they are told beside every result. `device`: as torch names it."""
    return {
        "commit": host.commit(),
        "device": _device_name(device),
        "cpu": host.cpu_model(),
        "cores": host.n_cores(),
        "threads": threads,
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "versions": host.versions(),
    }


def _device_name(device: str) -> str:
    if device == "cpu":
        return "CPU"
    import torch

    return torch.cuda.get_device_name(device)


def add_model_flags(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Which model on which device; `default` is the model's name."""
    add = parser.add_argument
    add("--model", default=default, metavar="NAME", help="a model of the catalogue (default: %(default)s)")
    add(
        "--catalogue", type=Path, action="append", default=[], metavar="FILE", help="a further catalogue file"
    )
    add("--gpu", type=int, metavar="I", help="measure on this GPU instead of the CPU")


def device_of(flags: argparse.Namespace) -> str:
    """As torch names it."""
    return "cpu" if flags.gpu is None else f"cuda:{flags.gpu}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of all of these commands."""
    results = CHECKOUT / "bench" / "results"
    parser.add_argument(
        "--threads",
        type=int,
        default=host.n_cores(),
        metavar="T",
        help="of the device loop (default: the cores)",
    )
    parser.add_argument("--seed", type=int, default=1000, help="of the first picture (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=results, metavar="DIR", help="where results go (default bench/results)"
    )


def write(result: dict[str, Any], folder: Path, render: Callable[[Path], Path]) -> str:
    """Writes the raw result and its table; returns what to tell. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / f"{result['benchmark']}.json"
    raw.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    rendered = render(raw)
    return f"\n{rendered.read_text('utf-8')}\nwritten: {raw} and {rendered}"
