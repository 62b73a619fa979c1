"""A bias per channel and a residual added to channels-last pixels, in place.

Cost: two readings and one writing. In place because a picture at 2048 px is a gigabyte in the last blocks of
a decoder. P pixels (B x H x W), C channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK_CHANNELS = 128
_BLOCK_ELEMENTS = 4096


@triton.jit
def _add(x, residual, bias, n_pixels, C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK_P
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    rows = tl.arange(0, BLOCK_P)
    held = channels < C
    mask = (first + rows < n_pixels)[:, None] & held[None, :]
    offsets = rows[:, None] * C + channels[None, :]
    added = tl.load(bias + channels, mask=held, other=0.0).to(tl.float32)
    values = tl.load(x + first * C + offsets, mask=mask, other=0.0).to(tl.float32)
    kept = tl.load(residual + first * C + offsets, mask=mask, other=0.0).to(tl.float32)
    total = values + (kept + added[None, :])
    tl.store(x + first * C + offsets, total.to(x.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "triptych::bias_residual_",
    mutates_args=("x",),
    schema="(Tensor(a!) x, Tensor residual, Tensor bias) -> ()",
)
def bias_residual_(x: torch.Tensor, residual: torch.Tensor, bias: torch.Tensor) -> None:
    """x += residual + bias, in place. x and residual [B, C, ...], both channels-last; bias [C].

    Raises ValueError if one of them is not dense, or the shapes differ.
    """
    if x.shape != residual.shape:
        raise ValueError(f"bias_residual_ takes equal shapes, not {tuple(x.shape)}, {tuple(residual.shape)}")
    if not (x.movedim(1, -1).is_contiguous() and residual.movedim(1, -1).is_contiguous()):
        raise ValueError("bias_residual_ takes dense channels-last tensors")
    if not bias.is_contiguous():
        raise ValueError("bias_residual_ takes a dense bias")
    if x.numel() == 0:
        return
    n_channels = x.shape[1]
    n_pixels = x.numel() // n_channels
    block_c = min(_BLOCK_CHANNELS, triton.next_power_of_2(n_channels))
    block_p = _BLOCK_ELEMENTS // block_c
    grid = (triton.cdiv(n_pixels, block_p), triton.cdiv(n_channels, block_c))
    _add[grid](x, residual, bias, n_pixels, C=n_channels, BLOCK_P=block_p, BLOCK_C=block_c)


@bias_residual_.register_fake
def _nothing(x: torch.Tensor, residual: torch.Tensor, bias: torch.Tensor) -> None:
    return None
