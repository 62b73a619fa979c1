"""`python -m worker.check NAME`: whether that model of the catalogue can be served here.

A line for each step, then the verdict. Exit code 0 if all is well, else 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from pipelines.catalogue import load_catalogue
from pipelines.errors import PipelineError


def _say(step: str, failure: str | None, note: str) -> None:
    """One line; a failure says enough by itself."""
    print(f"{step:<20} {failure or f'ok {note}'}".rstrip(), flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="models check",
        description="Derive a model's stages, load it, and compare it in pieces and resumed with the whole.",
    )
    parser.add_argument("model", help="its name in the catalogue")
    parser.add_argument(
        "--catalogue", type=Path, action="append", default=[], help="a further catalogue file"
    )
    parser.add_argument(
        "--kernels",
        choices=("auto", "triton", "torch"),
        default="auto",
        help="what pictures are made with (auto: of each call the fastest by the profile)",
    )
    parser.add_argument("--device", help="cpu or cuda:N (default: the first GPU, else the CPU)")
    arguments = parser.parse_args(argv)
    try:
        model = load_catalogue(*arguments.catalogue)[arguments.model]
    except PipelineError as error:
        print(f"models check: {error}", file=sys.stderr)
        return 1
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # importing torch takes seconds, which a wrong name should not
    import diffusers
    import torch

    from kernels.switch import KernelsUnavailable, Switch
    from worker.self_check import check_model

    # it logs a traceback for each block that an error passes, and the report has the error
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)
    try:
        device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        print(f"models check: there is no device {arguments.device!r}", file=sys.stderr)
        return 1
    try:
        switch = Switch(arguments.kernels, device)
    except KernelsUnavailable as error:
        print(f"models check: {error}", file=sys.stderr)
        return 1
    if not check_model(arguments.model, model, device, _say, switch):
        print(f"models check: {arguments.model} cannot be served", file=sys.stderr)
        return 1
    print(f"{arguments.model} can be served")
    return 0


if __name__ == "__main__":
    sys.exit(main())
