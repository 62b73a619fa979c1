"""Checks of kernels in a process of their own: Triton's interpreter is chosen when Triton is first imported.

A module of checks has `CHECKS`, functions of a device by name that raise for the first thing that is wrong.
One process runs all of a module, because starting one costs more than most checks.

Triton's interpreter cuts float32 down to bfloat16 where a GPU rounds to the nearest, which costs a decoder's
picture 4 dB. Here it rounds.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

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


def round_to_nearest() -> None:
    """Has Triton's interpreter round float32 to bfloat16 as torch does."""
    import numpy as np
    import torch
    from triton import language as tl
    from triton.runtime import interpreter

    cut = interpreter._convert_float

    def rounded(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return cut(values, source, target, mode)
        wide = torch.from_numpy(np.ascontiguousarray(values).view(np.float32))
        return wide.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)

    interpreter._convert_float = rounded


def main(module: str, device: str, *names: str) -> None:
    """Runs the checks of `module` on `device`, all where none is named, and prints what they said as JSON."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        round_to_nearest()
    said = {}
    checks = importlib.import_module(module).CHECKS
    for name in names or checks:
        try:
            checks[name](device)
            said[name] = ""
        except Exception:
            said[name] = traceback.format_exc()
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
