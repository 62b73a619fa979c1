"""`python -m bench kernel-code`: the kernels compiled for a GPU, on any machine."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from bench import device_command, host

QUESTION = (
    "What does Triton's compiler make of the kernels for a GPU: do they compile, what do they take there,"
    " which instructions are they?"
)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench kernel-code",
        description="Compiles every kernel with the shipped settings for H100 and A100, and for H100 whatever"
        " the tuner would try. No GPU is needed, and none is timed.",
        epilog="exit codes: 0 all that is shipped compiles and fits; 1 something does not; 2 a wrong flag",
    )
    made.add_argument("--no-candidates", action="store_true", help="only what is shipped")
    made.add_argument(
        "--out",
        type=Path,
        default=host.CHECKOUT / "bench" / "results",
        metavar="DIR",
        help="where results go (default bench/results)",
    )
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    load_before = os.getloadavg()[0]
    # the compiler is slow to load
    import triton

    from bench.kernels.code import DEVICES, candidate_cases, compiled, op_cases, shipped_cases
    from bench.render import render_file

    rows = []
    for arch in DEVICES:
        shipped = [*op_cases(), *shipped_cases(arch)]
        # in both: told once, as shipped
        known = {(case.call, case.settings) for case in shipped}
        tried = [] if flags.no_candidates or arch < 90 else candidate_cases(arch)
        more = [case for case in tried if (case.call, case.settings) not in known]
        for cases, is_shipped in ((shipped, True), (more, False)):
            for case in cases:
                for code in compiled(case, arch):
                    row = {**asdict(code), "warps_resident": code.warps_resident, "is_shipped": is_shipped}
                    rows.append(row)
                    told = code.failed or f"{code.registers} registers, {code.spilled_bytes} bytes spilled"
                    print(f"sm_{arch} {code.call} {code.kernel} {code.settings}: {told}", flush=True)
    result = {
        "benchmark": "kernel_code",
        "question": QUESTION,
        **device_command.measured_on(load_before, threads=1),
        "triton": triton.__version__,
        "devices": {str(arch): name for arch, name in DEVICES.items()},
        "rows": rows,
    }
    print(device_command.write(result, flags.out, render_file))
    bad = [row for row in rows if row["is_shipped"] and not row["warps_resident"]]
    for row in bad:
        why = row["failed"] or f"{row['shared_bytes']} bytes of shared memory"
        told = f"sm_{row['arch']} {row['call']} {list(row['settings'])}: {why}"
        print(f"kernel-code: FAILED: {told}", file=sys.stderr)
    return 1 if bad else 0
