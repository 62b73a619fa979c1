"""`python -m bench kernels`: kernels against torch and diffusers, on a GPU or, with `--cpu`, on this CPU."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import device_command, host

SECTIONS = ("ceilings", "attention", "decode", "denoise", "ops")
_QUESTION = "How do the kernels compare with torch's and diffusers' own paths?"
_CPU_QUESTION = "What does the decoder's form for a CPU spare?"
_TINY_ROUNDS = 2


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench kernels",
        description="Attention, decodes, steps and small ops, with kernels and without. Rows that the result"
        " has from this code and device are kept: a command that was cut off is taken up again.",
        epilog="exit codes: 0 measured, or no GPU to measure on, which the table then says; 1 a result is"
        " wrong; 2 a wrong flag",
    )
    made.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="S")
    made.add_argument("--section-s", type=float, default=600, metavar="S", help="no new row after (600)")
    made.add_argument("--rounds", type=int, default=20, metavar="N", help="times of each variant (20)")
    made.add_argument("--fresh", action="store_true", help="measure all again")
    made.add_argument("--quick", action="store_true", help="only the first rows of each section, 7 rounds")
    made.add_argument("--tiny", action="store_true", help="tiny shapes: whether everything runs, no figures")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu needs --tiny")
    made.add_argument("--cpu", action="store_true", help="the decoder's form for a CPU on the shipped model")
    device_command.add_flags(made)
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    if flags.rounds < 1 or (flags.device == "cpu" and not (flags.tiny or flags.cpu)):
        print("kernels: --rounds is at least 1, and --device cpu goes with --tiny", file=sys.stderr)
        return 2
    if flags.cpu:
        device_command.set_threads(flags.threads)
        return _on_a_cpu(flags)
    if flags.device == "cpu":
        # chosen when Triton is first imported
        os.environ["TRITON_INTERPRET"] = "1"
    return _on_a_gpu(flags)


def _on_a_gpu(flags: argparse.Namespace) -> int:
    import torch

    from bench.kernels.rows import read, run

    out: Path = flags.out
    lines = out / ("kernels_tiny.jsonl" if flags.tiny else "kernels.jsonl")
    if flags.device == "cuda" and not torch.cuda.is_available():
        print(_written(out, [asdict(row) for row in read(lines)]))
        return 0
    if flags.fresh:
        lines.unlink(missing_ok=True)
    circumstances = _circumstances(flags.device)
    done = 0
    for row in run(_jobs(flags), lines, circumstances, flags.section_s):
        done += 1
        medians = {
            name: f"{1000 * sorted(times)[len(times) // 2]:.3g}" for name, times in row.times_s.items()
        }
        print(f"{row.section} | {row.name} | ms {medians} | {row.failed}", flush=True)
    # what was measured on another device or of other code is another result
    rows = [row for row in read(lines) if row.host == circumstances]
    if not flags.tiny:
        print(_written(out, [asdict(row) for row in rows]))
    wrong = [row for row in rows if "everything" in row.failed]
    for row in wrong:
        print(f"kernels: FAILED: {row.section} {row.name}: {row.failed['everything']}", file=sys.stderr)
    print(f"{done} rows measured, {len(rows)} in {lines}")
    return 1 if wrong else 0


def _jobs(flags: argparse.Namespace) -> list[Any]:
    from bench.kernels import attention, ceilings, decode, denoise, ops
    from bench.kernels.clock import Clock

    n_rounds = _TINY_ROUNDS if flags.tiny else min(7, flags.rounds) if flags.quick else flags.rounds
    clock = Clock(flags.device, n_rounds)
    makers: dict[str, Callable[..., list[Any]]] = {
        "ceilings": ceilings.jobs,
        "attention": attention.jobs,
        "decode": decode.jobs,
        "denoise": denoise.jobs,
        "ops": ops.jobs,
    }
    first = 3 if flags.quick else None
    return [job for name in flags.sections for job in makers[name](clock, tiny=flags.tiny)[:first]]


def _circumstances(device: str) -> dict[str, Any]:
    import torch
    import triton

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, interpreted"
    versions = host.versions()
    return {
        "device": name,
        "cuda": str(torch.version.cuda),
        "torch": versions["torch"],
        "triton": triton.__version__,
        "diffusers": versions["diffusers"],
        "code": _code(),
    }


def _code() -> str:
    """Of what is measured: another commit that leaves this alone leaves the rows."""
    files = [
        file for folder in ("kernels", "bench/kernels") for file in (host.CHECKOUT / folder).rglob("*.py")
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _written(out: Path, rows: list[dict[str, Any]]) -> str:
    from bench.render import render_file

    return device_command.write(
        {"benchmark": "kernels", "question": _QUESTION, "commit": host.commit(), "rows": rows},
        out,
        render_file,
    )


def _on_a_cpu(flags: argparse.Namespace) -> int:
    # after the threads are set
    import torch

    from bench.kernels.cpu import Refused, measure
    from bench.render import render_file

    torch.set_num_threads(flags.threads)
    load_before = os.getloadavg()[0]
    try:
        rows = measure(flags.rounds, (64,) if flags.tiny else (128, 256), flags.seed)
    except Refused as error:
        print(f"kernels: FAILED: {error}", file=sys.stderr)
        return 1
    result = {
        "benchmark": "kernels_cpu",
        "question": _CPU_QUESTION,
        **device_command.measured_on(load_before, flags.threads),
        "model": "triptych-emoji",
        "n": flags.rounds,
        "seed": flags.seed,
        "rows": [asdict(row) for row in rows],
    }
    print(device_command.write(json.loads(json.dumps(result)), flags.out, render_file))
    return 0
