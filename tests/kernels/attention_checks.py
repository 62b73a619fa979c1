"""Attention against float64: odd sizes, strides, masks, large values, poisoned outputs.

Tolerances are relative to the largest value of v, since a result is a mean of v's. float32 differs by
rounding of sums; float16 by rounding the weights and the result, half a unit each and the sums' own;
bfloat16 by whole units, because a kernel rounds its weights to bfloat16 as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from kernels.attention import Settings, attention, attention_with_lse
from tests.kernels.op_checks import poisoned

TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 2**-6, torch.float16: 2**-10}
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def made(
    n_queries: int,
    n_keys: int,
    size: int,
    dtype: torch.dtype,
    device: str,
    *,
    b: int = 1,
    h: int = 2,
    hk: int = 0,
    seed: int = 0,
) -> Tensors:
    generator = torch.Generator().manual_seed(seed + n_queries * 7 + n_keys * 3 + size)
    q = torch.randn(b, n_queries, h, size, generator=generator)
    k, v = (torch.randn(b, n_keys, hk or h, size, generator=generator) for _ in range(2))
    return q.to(device, dtype), k.to(device, dtype), v.to(device, dtype)


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
    with poisoned():
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


def sizes(device: str) -> None:
    for number, size in enumerate((8, 32, 40, 60, 64, 80, 96, 100, 128, 160, 256)):
        dtype = (torch.bfloat16, torch.float16, torch.float32)[number % 3]
        compare(*made(33, 47, size, dtype, device, b=2))
    for dtype in TOLERANCE:
        compare(*made(63, 63, 80, dtype, device))
    compare(*made(16, 40, 384, torch.float32, device, h=1))
    compare(*made(40, 40, 512, torch.float16, device, h=1))


def lengths(device: str) -> None:
    compare(*made(500, 500, 40, torch.float16, device, h=1))
    compare(*made(1, 1000, 64, torch.float32, device))
    compare(*made(1000, 1, 32, torch.bfloat16, device, h=1))
    compare(*made(63, 77, 64, torch.float16, device))
    compare(*made(1, 1, 8, torch.float32, device, b=3))
    compare(*made(9, 64, 32, torch.float16, device))
    compare(*made(7, 21, 32, torch.float32, device, h=6, hk=2))


def strides(device: str) -> None:
    q, k, v = (
        each.transpose(1, 2).contiguous().transpose(1, 2)
        for each in made(37, 41, 40, torch.float32, device, b=2)
    )
    compare(q, k, v)
    packed = torch.cat(made(50, 50, 24, torch.float16, device, b=2), dim=-1)
    compare(*packed.chunk(3, dim=-1))
    q, k, v = made(40, 40, 32, torch.float32, device, b=3)
    compare(q[1:, ::2], k[1:, 5:], v[1:, 5:])
    compare(q, k[:1].expand(3, -1, -1, -1), v[:, :, :1].expand(-1, -1, 2, -1))


def masks(device: str) -> None:
    q, k, v = made(37, 53, 40, torch.float32, device, b=3)
    keys = torch.rand(3, 53, generator=torch.Generator().manual_seed(1)).to(device) > 0.5
    keys[1] = False
    keys[2, :-1] = False
    masked = compare(q, k, v, mask=keys)
    assert masked[1].abs().max() == 0
    compare(q, k, v, mask=keys[:1])
    compare(q, k, v, mask=keys[:, None, None, :])
    pairs = torch.rand(3, 1, 37, 53, generator=torch.Generator().manual_seed(2)).to(device) > 0.3
    pairs[0, 0, 3] = False
    compare(q, k, v, mask=pairs)
    compare(q, k, v, mask=pairs.transpose(2, 3).contiguous().transpose(2, 3))
    added = torch.randn(3, 2, 1, 53, generator=torch.Generator().manual_seed(3)).to(device)
    compare(q, k, v, mask=added)
    added[:, :, :, 10:] = -10000.0
    compare(q, k, v, mask=added)
    compare(q, k, v, mask=torch.randn(1, 1, 37, 53, generator=torch.Generator().manual_seed(4)).to(device))
    # whatever lies where no key is must not matter
    k[:, 40:], v[:, 40:] = 1e4, 1e4
    seen = torch.arange(53, device=device)[None] < 40
    narrow = compare(q, k[:, :40].clone(), v[:, :40].clone())
    assert torch.allclose(compare(q, k, v, mask=seen), narrow, atol=1e-5)


def magnitudes(device: str) -> None:
    q, k, v = made(33, 50, 40, torch.float32, device)
    compare(q * 100, k * 100, v)
    compare(q, k, v * 1e4)
    compare(q, k, v, scale=3.0)
    compare(q, k, v, scale=1e-3)
    same = torch.ones_like(q[:, :1])
    compare(same * 500, k + 1000, v)
    q, k, v = made(33, 50, 64, torch.float16, device)
    compare(q * 50, k * 50, v * 100)


def settings(device: str) -> None:
    for dtype in (torch.float16, torch.float32):
        q, k, v = made(70, 90, 80, dtype, device, b=2)
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
    compare(*made(20, 33, 60, torch.float16, device, h=1), settings=Settings(32, 32, 4, 1, descriptors=1))


def rows_alone(device: str) -> None:
    """A row's bits are its own: not the batch's, not its place in it, not those of the queries around it."""
    q, k, v = made(100, 140, 40, torch.float16, device, b=4)
    together = attention(q, k, v)
    for row in range(4):
        alone = attention(q[row : row + 1], k[row : row + 1], v[row : row + 1])
        assert torch.equal(alone, together[row : row + 1])
    assert torch.equal(attention(q.flip(0), k.flip(0), v.flip(0)), together.flip(0))
    fewer = attention(q[:, 5:17], k, v)
    assert torch.allclose(fewer, together[:, 5:17], atol=1e-3)


def parts(device: str) -> None:
    """Two halves of the keys, put together by their logarithms, are the whole."""
    q, k, v = made(30, 64, 32, torch.float32, device)
    (left, left_sum), (right, right_sum) = (
        attention_with_lse(q, k[:, part], v[:, part]) for part in (slice(0, 25), slice(25, 64))
    )
    whole, whole_sum = attention_with_lse(q, k, v)
    shares = [(each - whole_sum).exp().transpose(1, 2)[..., None] for each in (left_sum, right_sum)]
    assert torch.allclose(left * shares[0] + right * shares[1], whole, atol=2e-6)


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (sizes, lengths, strides, masks, magnitudes, settings, rows_alone, parts)
}
