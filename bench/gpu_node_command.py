"""`python -m bench gpu-node`: the commands that measure a node, on one GPU with a model of full size."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.node import CHECKOUT

_LIMIT_S = 1800


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench gpu-node",
        description="Makes a model of SD3-medium's size with random weights, and with it on one GPU: pictures"
        " a second against a plain loop and the gateway's part of a request, how soon a pause is obeyed,"
        " loads from disk against the host copy, and a profile of all stages at every size and batch.",
        epilog="exit codes: 0 all measured; 1 a part failed, the others are written; 2 a wrong flag",
    )
    add = made.add_argument
    add("--gpu", type=int, default=0, metavar="I", help="which GPU (default %(default)s)")
    add("--tiny", action="store_true", help="a tiny model on the CPU: whether everything runs, no figures")
    add("--repeats", type=int, default=5, metavar="R", help="of both sides of the comparison (default 5)")
    results = CHECKOUT / "bench" / "results" / "gpu"
    add(
        "--out",
        type=Path,
        default=results,
        metavar="DIR",
        help="where results go (default bench/results/gpu)",
    )
    add(
        "--scratch",
        type=Path,
        default=Path("demo-out") / "gpu-node",
        metavar="DIR",
        help="where weights, journals and logs go (default %(default)s)",
    )
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if flags.repeats < 1 or flags.gpu < 0:
        print("gpu-node: --repeats is at least 1, --gpu at least 0", file=sys.stderr)
        return 2
    # imports torch
    from bench.random_model import random_sd3_medium

    try:
        flags.scratch.mkdir(parents=True, exist_ok=True)
        flags.out.mkdir(parents=True, exist_ok=True)
        file = random_sd3_medium(flags.scratch.resolve(), tiny=flags.tiny)
    except OSError as error:
        print(f"gpu-node: {error}", file=sys.stderr)
        return 1
    failed = []
    for name, command in _parts(flags, file):
        print(f"== {name}", flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", *command], timeout=_LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            failed.append(f"{name} took longer than {_LIMIT_S} s")
            continue
        if done.returncode != 0:
            failed.append(f"{name} ended with exit code {done.returncode}")
    for what in failed:
        print(f"gpu-node: FAILED: {what}", file=sys.stderr)
    return 1 if failed else 0


def _parts(flags: argparse.Namespace, file: Path) -> Iterator[tuple[str, list[str]]]:
    """Commands, the most important first."""
    from bench.random_model import NAME

    out = ["--out", str(flags.out)]
    device = [] if flags.tiny else ["--gpu", str(flags.gpu)]
    model = ["--model", NAME, "--catalogue", str(file), *device]
    few = flags.tiny
    repeats = ["--repeats", str(flags.repeats), "--requests", "2" if few else "20"]
    scratch = ["--scratch", str(flags.scratch)]
    yield "overhead", ["bench", "overhead", *model, *repeats, *scratch, *out]
    profile = [
        "gateway",
        "profile",
        NAME,
        "--catalogue",
        str(file),
        "--profile-bound-s",
        "2" if few else "120",
    ]
    profile += ["--device", "cpu" if flags.tiny else f"cuda:{flags.gpu}"]
    profile += ["--profiles", str(flags.scratch / "profiles"), "--json", str(flags.out / "profile.json")]
    yield "profile", profile
    yield "checkpoints", ["bench", "checkpoints", *model, "--pauses", "2" if few else "20", *out]
    yield (
        "host-weights",
        ["bench", "host-weights", *model, "--loads", "1" if few else "5", "--workers", "1", *out],
    )
