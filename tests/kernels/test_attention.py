"""Attention against float64, under Triton's interpreter on a CPU and compiled on a GPU.

Tolerances are relative to the largest value of v, since a result is a mean of v's. float32 differs by
rounding of sums; float16 by rounding the weights and the result, half a unit each and the sums' own;
bfloat16 by whole units, because Triton's interpreter cuts there instead of rounding.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CHECKOUT = Path(__file__).parents[2]
TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2**-6, torch.float16: 2**-10}
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

DEVICE = "cpu"


def made(
    n_queries: int,
    n_keys: int,
    size: int,
    dtype: torch.dtype,
    *,
    b: int = 1,
    h: int = 2,
    hk: int = 0,
    seed: int = 0,
) -> Tensors:
    generator = torch.Generator().manual_seed(seed + n_queries * 7 + n_keys * 3 + size)
    q = torch.randn(b, n_queries, h, size, generator=generator)
    k, v = (torch.randn(b, n_keys, hk or h, size, generator=generator) for _ in range(2))
    return q.to(DEVICE, dtype), k.to(DEVICE, dtype), v.to(DEVICE, dtype)


def exact(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The result and its logarithms of sums, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (each.repeat_interleave(q.shape[2] // each.shape[2], dim=2) for each in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.double()
    weights = scores.softmax(dim=-1).nan_to_num(0.0)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v), scores.logsumexp(dim=-1)


def compare(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    settings: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """The kernel's result, once it is as near as it has to be."""
    from kernels.attention import attention_with_lse

    out, lse = attention_with_lse(q, k, v, mask=mask, scale=scale, settings=settings)
    wanted, sums = exact(q, k, v, mask, scale)
    assert (out.shape, out.dtype, lse.dtype) == (q.shape, q.dtype, torch.float32)
    error = ((out.double() - wanted).abs().max() / v.double().abs().max()).item()
    # what rounding a score of this size, in float32, does to its exponential
    steep = sums[sums.isfinite()].abs().max().item() if sums.isfinite().any() else 0.0
    # written so that NaN fails
    assert error <= TOLERANCE[q.dtype] + steep * 2**-22, (
        tuple(q.shape),
        tuple(k.shape),
        q.dtype,
        settings,
        error,
    )
    seen = sums.isfinite()
    assert torch.equal(lse.isneginf(), ~seen)
    apart = (
        ((lse.double() - sums)[seen].abs() / sums[seen].abs().clamp(min=1)).max().item()
        if seen.any()
        else 0.0
    )
    assert apart <= 4e-6, (tuple(q.shape), q.dtype, settings, apart)
    return out


def check_sizes() -> None:
    for number, size in enumerate((8, 32, 40, 60, 64, 80, 96, 100, 128, 160, 256)):
        dtype = (torch.bfloat16, torch.float16, torch.float32)[number % 3]
        compare(*made(33, 47, size, dtype, b=2))
    for dtype in TOLERANCE:
        compare(*made(63, 63, 80, dtype))
    compare(*made(16, 40, 384, torch.float32, h=1))
    compare(*made(40, 40, 512, torch.float16, h=1))


def check_lengths() -> None:
    compare(*made(500, 500, 40, torch.float16, h=1))
    compare(*made(1, 1000, 64, torch.float32))
    compare(*made(1000, 1, 32, torch.bfloat16, h=1))
    compare(*made(63, 77, 64, torch.float16))
    compare(*made(1, 1, 8, torch.float32, b=3))
    compare(*made(9, 64, 32, torch.float16))
    compare(*made(7, 21, 32, torch.float32, h=6, hk=2))


def check_strides() -> None:
    q, k, v = (
        each.transpose(1, 2).contiguous().transpose(1, 2) for each in made(37, 41, 40, torch.float32, b=2)
    )
    compare(q, k, v)
    packed = torch.cat(made(50, 50, 24, torch.float16, b=2), dim=-1)
    compare(*packed.chunk(3, dim=-1))
    q, k, v = made(40, 40, 32, torch.float32, b=3)
    compare(q[1:, ::2], k[1:, 5:], v[1:, 5:])
    compare(q, k[:1].expand(3, -1, -1, -1), v[:, :, :1].expand(-1, -1, 2, -1))


def check_masks() -> None:
    q, k, v = made(37, 53, 40, torch.float32, b=3)
    keys = torch.rand(3, 53, generator=torch.Generator().manual_seed(1)).to(DEVICE) > 0.5
    keys[1] = False
    keys[2, :-1] = False
    masked = compare(q, k, v, mask=keys)
    assert masked[1].abs().max() == 0
    compare(q, k, v, mask=keys[:1])
    compare(q, k, v, mask=keys[:, None, None, :])
    pairs = torch.rand(3, 1, 37, 53, generator=torch.Generator().manual_seed(2)).to(DEVICE) > 0.3
    pairs[0, 0, 3] = False
    compare(q, k, v, mask=pairs)
    compare(q, k, v, mask=pairs.transpose(2, 3).contiguous().transpose(2, 3))
    added = torch.randn(3, 2, 1, 53, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    compare(q, k, v, mask=added)
    added[:, :, :, 10:] = -10000.0
    compare(q, k, v, mask=added)
    compare(q, k, v, mask=torch.randn(1, 1, 37, 53, generator=torch.Generator().manual_seed(4)).to(DEVICE))
    # whatever lies where no key is must not matter
    k[:, 40:], v[:, 40:] = 1e4, 1e4
    seen = torch.arange(53, device=DEVICE)[None] < 40
    narrow = compare(q, k[:, :40].clone(), v[:, :40].clone())
    assert torch.allclose(compare(q, k, v, mask=seen), narrow, atol=1e-5)


def check_magnitudes() -> None:
    q, k, v = made(33, 50, 40, torch.float32)
    compare(q * 100, k * 100, v)
    compare(q, k, v * 1e4)
    compare(q, k, v, scale=3.0)
    compare(q, k, v, scale=1e-3)
    same = torch.ones_like(q[:, :1])
    compare(same * 500, k + 1000, v)
    q, k, v = made(33, 50, 64, torch.float16)
    compare(q * 50, k * 50, v * 100)


def check_settings() -> None:
    from kernels.attention import Settings

    for dtype in (torch.float16, torch.float32):
        q, k, v = made(70, 90, 80, dtype, b=2)
        results = [
            compare(q, k, v, settings=settings)
            for settings in (
                Settings(32, 32, 4, 1),
                Settings(32, 32, 4, 1, persistent=1),
                Settings(32, 32, 4, 1, descriptors=1),
                Settings(32, 32, 4, 1, descriptors=1, specialised=1, persistent=1),
            )
        ]
        assert all(torch.equal(results[0], each) for each in results[1:])
    # 60 halves a head are no multiple of 16 bytes: loads by address, whatever the settings say
    compare(*made(20, 33, 60, torch.float16, h=1), settings=Settings(32, 32, 4, 1, descriptors=1))


def check_rows_alone() -> None:
    """A row's bits are its own: not the batch's, not its place in it, not those of the queries around it."""
    from kernels.attention import attention

    q, k, v = made(100, 140, 40, torch.float16, b=4)
    together = attention(q, k, v)
    for row in range(4):
        alone = attention(q[row : row + 1], k[row : row + 1], v[row : row + 1])
        assert torch.equal(alone, together[row : row + 1])
    assert torch.equal(attention(q.flip(0), k.flip(0), v.flip(0)), together.flip(0))
    fewer = attention(q[:, 5:17], k, v)
    assert torch.allclose(fewer, together[:, 5:17], atol=1e-3)


def check_parts() -> None:
    """Two halves of the keys, put together by their logarithms, are the whole."""
    from kernels.attention import attention_with_lse

    q, k, v = made(30, 64, 32, torch.float32)
    (left, left_sum), (right, right_sum) = (
        attention_with_lse(q, k[:, part], v[:, part]) for part in (slice(0, 25), slice(25, 64))
    )
    whole, whole_sum = attention_with_lse(q, k, v)
    shares = [(each - whole_sum).exp().transpose(1, 2)[..., None] for each in (left_sum, right_sum)]
    assert torch.allclose(left * shares[0] + right * shares[1], whole, atol=2e-6)


CHECKS: dict[str, Callable[[], None]] = {
    name.removeprefix("check_"): each for name, each in list(globals().items()) if name.startswith("check_")
}


def check(device: str, *names: str) -> None:
    """The named checks, all where none is, with outputs that are NaN until they are written."""
    global DEVICE
    DEVICE = device
    empty: Any = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = empty(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    torch.empty = poisoned
    for name in names or CHECKS:
        CHECKS[name]()


def run_interpreted(program: str) -> None:
    """In a process of its own: the interpreter is chosen when Triton is first imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_interpreted() -> None:
    run_interpreted("from tests.kernels.test_attention import check; check('cpu')")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHECKS)
def test_compiled(name: str) -> None:
    program = f"from tests.kernels.test_attention import check; check('cuda', {name!r})"
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
def test_memory_is_not_overrun() -> None:
    program = "from tests.kernels.test_attention import check; check('cuda', 'strides', 'masks', 'settings')"
    subprocess.run(
        ["compute-sanitizer", "--error-exitcode", "9", sys.executable, "-c", program],
        cwd=CHECKOUT,
        check=True,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits() -> None:
    """The last row of a batch lies more than 2^31 elements from the first."""
    from kernels.attention import attention

    q, k, v = (each.to("cuda") for each in made(64, 64, 64, torch.float16, b=1))
    far = torch.empty(2, 2**31 // (2 * 64) + 64, 2, 64, dtype=torch.float16, device="cuda")
    view = far[:, -64:]
    for tensors in ((q, view, v), (q, k, view), (view, k, v)):
        view.copy_(torch.randn(2, 64, 2, 64, generator=torch.Generator().manual_seed(5)))
        wide = [each.expand(2, -1, -1, -1) for each in tensors]
        near = [each.clone() for each in wide]
        assert torch.equal(attention(*wide), attention(*near))


def test_reference_is_attention() -> None:
    from kernels.attention import attention_reference, attention_with_lse_reference

    global DEVICE
    DEVICE = "cpu"
    q, k, v = made(12, 21, 40, torch.float32, b=2, h=4, hk=2)
    seen = torch.arange(21)[None] < torch.tensor([[21], [5]])
    for mask in (None, seen, torch.randn(2, 4, 12, 21)):
        wanted, sums = exact(q, k, v, mask, None)
        assert torch.allclose(attention_reference(q, k, v, mask=mask).double(), wanted, atol=1e-5)
        out, lse = attention_with_lse_reference(q, k, v, mask=mask)
        assert torch.allclose(out.double(), wanted, atol=1e-5)
        assert torch.allclose(lse.double(), sums, atol=1e-5)


def test_what_is_refused_and_why() -> None:
    from kernels.attention import attention, refusal

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
