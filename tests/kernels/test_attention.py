"""The checks of `attention_checks` under Triton's interpreter and compiled on a GPU, and the reference."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from kernels.attention import attention, attention_reference, attention_with_lse_reference, refusal
from tests.kernels.attention_checks import CHECKS, TOLERANCE, exact, made
from tests.kernels.interpreter import CHECKOUT, interpreted

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return interpreted("tests.kernels.attention_checks")


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
    arguments = ["tests.kernels.interpreter", "tests.kernels.attention_checks", "cuda"]
    done = subprocess.run(
        [*command, *arguments, "strides", "masks", "settings"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.gpu
@on_a_gpu
def test_offsets_beyond_32_bits() -> None:
    """The last row of a batch lies more than 2^31 elements from the first."""
    q, k, v = (each.to("cuda") for each in made(64, 64, 64, torch.float16, "cpu", b=1))
    far = torch.empty(2, 2**31 // (2 * 64) + 64, 2, 64, dtype=torch.float16, device="cuda")
    view = far[:, -64:]
    for tensors in ((q, view, v), (q, k, view), (view, k, v)):
        view.copy_(torch.randn(2, 64, 2, 64, generator=torch.Generator().manual_seed(5)))
        wide = [each.expand(2, -1, -1, -1) for each in tensors]
        near = [each.clone() for each in wide]
        assert torch.equal(attention(*wide), attention(*near))


def test_reference_is_attention() -> None:
    q, k, v = made(12, 21, 40, torch.float32, "cpu", b=2, h=4, hk=2)
    seen = torch.arange(21)[None] < torch.tensor([[21], [5]])
    for mask in (None, seen, torch.randn(2, 4, 12, 21)):
        wanted, sums = exact(q, k, v, mask, None)
        assert torch.allclose(attention_reference(q, k, v, mask=mask).double(), wanted, atol=1e-5)
        out, lse = attention_with_lse_reference(q, k, v, mask=mask)
        assert torch.allclose(out.double(), wanted, atol=1e-5)
        assert torch.allclose(lse.double(), sums, atol=1e-5)


def test_what_is_refused_and_why() -> None:
    q = torch.zeros(2, 5, 4, 16)
    k = torch.zeros(2, 7, 2, 16)
    refused: list[tuple[str | None, Any]] = [
        (None, (q, k, k, None, None)),
        (None, (q, k, k, torch.ones(2, 7, dtype=torch.bool), 0.5)),
        ("not [B, T, H, D]", (q[0], k, k, None, None)),
        ("type", (q.double(), k.double(), k.double(), None, None)),
        ("type", (q.half(), k, k, None, None)),
        ("head size", (q.repeat(1, 1, 1, 33), k.repeat(1, 1, 1, 33), k.repeat(1, 1, 1, 33), None, None)),
        ("shapes that differ", (q, k[:, :, :, :8], k[:, :, :, :8], None, None)),
        ("shapes that differ", (q, k, k[:, :5], None, None)),
        ("shapes that differ", (q[:, :, :3], k, k, None, None)),
        ("empty", (q, k[:, :0], k[:, :0], None, None)),
        ("strides", (q.repeat(1, 1, 1, 2)[..., ::2], k, k, None, None)),
        ("scale", (q, k, k, None, -1.0)),
        ("scale", (q, k, k, None, float("nan"))),
        ("mask's type", (q, k, k, torch.ones(2, 7, dtype=torch.int64), None)),
        ("mask's shape", (q, k, k, torch.ones(2, 6, dtype=torch.bool), None)),
        ("mask's shape", (q, k, k, torch.ones(3, 1, 5, 7, dtype=torch.bool), None)),
    ]
    for reason, call in refused:
        assert refusal(*call) == reason
    wide = torch.zeros(1, 1, 1, 513)
    with pytest.raises(ValueError, match="head size"):
        attention(wide, wide, wide)


def test_heads_are_held_with_little_waste() -> None:
    from kernels.attention.settings import head_blocks

    wanted = {
        8: (16, 0), 32: (32, 0), 40: (32, 16), 60: (64, 0), 64: (64, 0), 80: (64, 16), 96: (64, 32),
        100: (128, 0), 128: (128, 0), 160: (128, 32), 192: (128, 64), 256: (256, 0), 384: (256, 128),
        512: (512, 0),
    }  # fmt: skip
    assert {size: head_blocks(size) for size in wanted} == wanted
    for size in range(1, 513):
        first, second = head_blocks(size)
        assert size <= first + second
        assert second < first


def test_settings_do_not_ask_for_the_batch_or_the_queries() -> None:
    """For every head size and number of keys there are some, and the tuner's candidates begin with them."""
    from kernels.attention.settings import candidates, settings_for

    for device in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "something else", ""):
        for dtype in TOLERANCE:
            for size in (1, 40, 64, 80, 128, 200, 256, 384, 512):
                for n_keys in (1, 77, 513, 100_000):
                    shipped = settings_for(device, dtype, size, n_keys)
                    assert candidates(device, 90, dtype, size, n_keys)[0] == shipped
                    plain = candidates(device, 80, dtype, size, n_keys)
                    assert not any(each.descriptors or each.specialised for each in plain)
                    assert min(shipped.block_q, shipped.block_k) >= 16


@pytest.mark.parametrize("with_lse", [False, True])
def test_compilers_can_go_through_it(with_lse: bool) -> None:
    """The op's fake says shapes, types and devices without running anything."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from kernels.attention import attention, attention_with_lse

    with FakeTensorMode():
        q = torch.empty(2, 5, 4, 16, dtype=torch.bfloat16)
        k = torch.empty(2, 7, 2, 16, dtype=torch.bfloat16)
        if with_lse:
            out, lse = attention_with_lse(q, k, k)
            assert (lse.shape, lse.dtype) == ((2, 4, 5), torch.float32)
        else:
            out = attention(q, k, k)
        assert (out.shape, out.dtype) == (q.shape, q.dtype)
        assert out.is_contiguous()
