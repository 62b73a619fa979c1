"""The checks of `op_checks` under Triton's interpreter, compiled on a GPU, and what ops refuse."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from kernels.bias_residual import bias_residual_
from kernels.channels_last import channels_last
from kernels.gated_residual import gated_residual
from kernels.group_norm_silu import group_norm_silu
from kernels.layer_norm_scale_shift import layer_norm_scale_shift
from kernels.qk_norm_rope import qk_norm_rope
from kernels.rms_norm_silu import rms_norm_silu
from kernels.upsample_conv import fold, upsample_conv
from tests.kernels.interpreter import CHECKOUT, interpreted
from tests.kernels.op_checks import CHECKS

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return interpreted("tests.kernels.op_checks")


@pytest.mark.parametrize("name", CHECKS)
def test_interpreted(said: dict[str, str], name: str) -> None:
    assert said[name] == ""


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("name", CHECKS)
def test_compiled(name: str) -> None:
    CHECKS[name]("cuda")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
def test_no_access_outside_of_memory() -> None:
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m"]
    arguments = ["tests.kernels.interpreter", "tests.kernels.op_checks", "cuda"]
    done = subprocess.run(
        [*command, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=540
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.gpu
@on_a_gpu
def test_offsets_beyond_32_bits() -> None:
    """Of 2.2 billion elements the last picture has the bits that it has alone."""
    x = torch.randn(3, 128, 2400, 2400, dtype=torch.bfloat16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    vector = torch.randn(128, dtype=torch.bfloat16, device="cuda")
    assert torch.equal(
        group_norm_silu(x, vector, vector, 32, 1e-6)[2:], group_norm_silu(x[2:], vector, vector, 32, 1e-6)
    )
    assert torch.equal(rms_norm_silu(x, vector)[2:], rms_norm_silu(x[2:], vector))
    expected = x[2:].clone()
    bias_residual_(expected, x[2:].clone(), vector)
    bias_residual_(x, x.clone(), vector)
    assert torch.equal(x[2:], expected)


@pytest.mark.gpu
@on_a_gpu
def test_a_folded_upsampling_has_the_same_bits_every_time() -> None:
    """cuDNN may sum a transposed convolution in any order, unless the algorithm that it chooses does not."""
    for n_channels, side in ((512, 64), (512, 128), (256, 256)):
        x = channels_last(torch.randn(1, n_channels, side, side, dtype=torch.bfloat16, device="cuda"))
        folded = fold(torch.randn(n_channels, n_channels, 3, 3, dtype=torch.bfloat16, device="cuda"))
        first = upsample_conv(x, folded)
        assert all(torch.equal(upsample_conv(x, folded), first) for _ in range(10))


def test_wrong_input_is_refused() -> None:
    vector, tokens = torch.ones(6), torch.ones(2, 3, 6)
    x = torch.ones(1, 6, 4, 4)
    with pytest.raises(ValueError, match="channels-last"):
        group_norm_silu(x, vector, vector, 3, 1e-6)
    with pytest.raises(ValueError, match="4 groups"):
        group_norm_silu(channels_last(x), vector, vector, 4, 1e-6)
    with pytest.raises(ValueError, match="dense vectors"):
        group_norm_silu(channels_last(x), torch.ones(12)[::2], vector, 3, 1e-6)
    with pytest.raises(ValueError, match="channels-last"):
        rms_norm_silu(x, vector)
    with pytest.raises(ValueError, match="channels-last"):
        bias_residual_(x, channels_last(x), vector)
    with pytest.raises(ValueError, match="equal shapes"):
        bias_residual_(x, x[..., :2], vector)
    with pytest.raises(ValueError, match="does not go with"):
        layer_norm_scale_shift(tokens, torch.ones(1, 6), torch.ones(2, 6), 1e-6)
    with pytest.raises(ValueError, match="side by side"):
        layer_norm_scale_shift(torch.ones(2, 6, 3).mT, torch.ones(2, 6), torch.ones(2, 6), 1e-6)
    with pytest.raises(ValueError, match="does not go with"):
        gated_residual(tokens, tokens[:, :2], torch.ones(2, 6))
    with pytest.raises(ValueError, match="no pairs"):
        qk_norm_rope(torch.ones(1, 2, 3, 5), torch.ones(5), torch.ones(2, 5), torch.ones(2, 5), 1e-6)
    with pytest.raises(ValueError, match="does not go with"):
        qk_norm_rope(torch.ones(1, 2, 3, 4), torch.ones(4), torch.ones(3, 4), torch.ones(3, 4), 1e-6)
