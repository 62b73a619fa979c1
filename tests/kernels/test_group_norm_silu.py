"""GroupNorm + SiLU against float64, under Triton's interpreter on a CPU and compiled on a GPU.

Tolerances, relative above 1 and absolute below: float32 differs from float64 by rounding of sums of some
thousand terms; float16 by the rounding of the result, half a unit in the last place; bfloat16 by a whole
unit, because Triton's interpreter cuts there instead of rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[2]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-11}
SHAPES = [(1, 4, 1, 2, 4), (2, 12, 7, 9, 4), (1, 60, 25, 20, 6), (1, 32, 8, 8, 32), (3, 100, 3, 21, 5)]


def check(device: str) -> None:
    """Every shape and type, a large offset, and poisoned outputs; raises on the first difference."""
    from kernels.group_norm_silu import group_norm_silu, group_norm_silu_reference

    generator = torch.Generator().manual_seed(0)
    empty_like = torch.empty_like
    torch.empty_like = lambda *a, **k: empty_like(*a, **k).fill_(float("nan"))
    for n, c, h, w, groups in SHAPES:
        for dtype, tolerance in TOLERANCE.items():
            for offset in (0.0, 1000.0) if dtype is torch.float32 else (0.0,):
                x = (torch.randn(n, c, h, w, generator=generator) + offset).to(dtype)
                x = x.to(device, memory_format=torch.channels_last)
                weight = torch.randn(c, generator=generator).to(device, dtype)
                bias = torch.randn(c, generator=generator).to(device, dtype)
                exact = torch.nn.functional.silu(
                    torch.nn.functional.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-6)
                )
                # one unit of the input's own rounding is what an offset leaves uncertain
                allowed = tolerance + offset * torch.finfo(torch.float32).eps * 8
                for op in (group_norm_silu, group_norm_silu_reference):
                    out = op(x, weight, bias, groups, 1e-6)
                    assert out.dtype == dtype
                    assert out.is_contiguous(memory_format=torch.channels_last)
                    error = ((out.double() - exact).abs() / exact.abs().clamp(min=1)).max().item()
                    # written so that NaN fails
                    assert error <= allowed, (op.__name__, n, c, h, w, groups, dtype, offset, error)


def test_interpreted() -> None:
    """In a process of its own: the interpreter is chosen when Triton is first imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(CHECKOUT)}
    program = "from tests.kernels.test_group_norm_silu import check; check('cpu')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled() -> None:
    check("cuda")


def test_wrong_input_is_refused() -> None:
    from kernels.group_norm_silu import group_norm_silu

    weight = torch.ones(6)
    with pytest.raises(ValueError, match="channels-last"):
        group_norm_silu(torch.ones(1, 6, 4, 4), weight, weight, 3, 1e-6)
    x = torch.ones(1, 6, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="4 groups"):
        group_norm_silu(x, weight, weight, 4, 1e-6)
