"""Checks of kernels in a process of their own: Triton's interpreter is chosen when Triton is first imported.

A module of checks has `CHECKS`, functions of a device by name that raise for the first thing that is wrong.
One process runs all of a module, because starting one costs more than most checks.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def interpreted(module: str) -> dict[str, str]:
    """What each check of `module` said, "" for one that passed. Raises `AssertionError` if none could."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.interpreter", module, "cpu"],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return said


def main(module: str, device: str) -> None:
    """Runs the checks of `module` on `device` and prints what they said as JSON."""
    said = {}
    for name, check in importlib.import_module(module).CHECKS.items():
        try:
            check(device)
            said[name] = ""
        except Exception:
            said[name] = traceback.format_exc()
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
