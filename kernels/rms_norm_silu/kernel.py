"""RMS normalisation over the channels of channels-last pixels, in one pass: x is read once and written once.

A program holds whole pixels, so nothing is shared between programs and a pixel has the same bits wherever it
is. P pixels (B x T x H x W), C channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.rms_norm_silu.reference import SHORTEST

_BLOCK_ELEMENTS = 4096


@triton.jit
def _normalise(
    x,
    out,
    weight,
    n_pixels,
    root,
    shortest,
    C: tl.constexpr,
    ACTIVATE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK_P
    rows = tl.arange(0, BLOCK_P)
    channels = tl.arange(0, BLOCK_C)
    held = channels < C
    mask = (first + rows < n_pixels)[:, None] & held[None, :]
    offsets = rows[:, None] * C + channels[None, :]
    values = tl.load(x + first * C + offsets, mask=mask, other=0.0).to(tl.float32)
    gain = tl.load(weight + channels, mask=held, other=0.0).to(tl.float32) * root
    length = tl.maximum(tl.sqrt(tl.sum(values * values, axis=1)), shortest)
    normed = values / length[:, None] * gain[None, :]
    if ACTIVATE:
        normed = normed * tl.sigmoid(normed)
    tl.store(out + first * C + offsets, normed.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "triptych::rms_norm_silu",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, bool activate=True) -> Tensor",
)
def rms_norm_silu(x: torch.Tensor, weight: torch.Tensor, activate: bool = True) -> torch.Tensor:
    """silu(x / |x| * sqrt(C) * weight) of a channels-last x [B, C, ...], or without the silu; weight [C].

    Raises ValueError if x is not dense channels-last or weight has gaps.
    """
    n_channels = x.shape[1]
    if not x.movedim(1, -1).is_contiguous():
        raise ValueError("rms_norm_silu takes a dense channels-last tensor")
    if not weight.is_contiguous():
        raise ValueError("rms_norm_silu takes a dense weight")
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    n_pixels = x.numel() // n_channels
    block_c = triton.next_power_of_2(n_channels)
    block_p = max(1, _BLOCK_ELEMENTS // block_c)
    _normalise[(triton.cdiv(n_pixels, block_p),)](
        x,
        out,
        weight,
        n_pixels,
        n_channels**0.5,
        SHORTEST,
        C=n_channels,
        ACTIVATE=activate,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return out


@rms_norm_silu.register_fake
def _shape_of(x: torch.Tensor, weight: torch.Tensor, activate: bool = True) -> torch.Tensor:
    return torch.empty_like(x)
