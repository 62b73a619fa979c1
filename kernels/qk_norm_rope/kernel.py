"""RMSNorm and rotation in one pass. A program holds all heads of a token, which share its cosines and sines.

Diffusers' eager form makes about ten passes over a query, most of them in float32. B pictures, T tokens, H
heads of D channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate(
    x,
    weight,
    cos,
    sin,
    out,
    stride_b,
    stride_t,
    stride_h,
    n_tokens,
    eps,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    picture = tl.program_id(2).to(tl.int64)
    channels = tl.arange(0, BLOCK_D)
    held = channels < D
    mask = (heads < H)[:, None] & held[None, :]
    place = picture * stride_b + token * stride_t
    values = tl.load(x + place + heads[:, None] * stride_h + channels[None, :], mask=mask, other=0.0)
    values = values.to(tl.float32)
    gain = tl.load(weight + channels, mask=held, other=0.0).to(tl.float32)
    cosines = tl.load(cos + token * D + channels, mask=held, other=0.0).to(tl.float32)
    sines = tl.load(sin + token * D + channels, mask=held, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(values * values, axis=1) / D + eps)
    normed = values * inverse[:, None] * gain[None, :]
    # D is even, so no pair reaches over the padding
    even, odd = tl.split(tl.reshape(normed, [BLOCK_H, BLOCK_D // 2, 2]))
    turned = tl.reshape(tl.join(-odd, even), [BLOCK_H, BLOCK_D])
    result = normed * cosines[None, :] + turned * sines[None, :]
    row = out + ((picture * n_tokens + token) * H + heads[:, None]) * D
    tl.store(row + channels[None, :], result.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "triptych::qk_norm_rope",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor cos, Tensor sin, float eps) -> Tensor",
)
def qk_norm_rope(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> torch.Tensor:
    """x normalised over D and rotated in pairs of channels, contiguous. x [B, T, H, D], D even.

    weight [D]; cos, sin [T, D], contiguous, float32 as the models make them. B, T and H of x may have any
    stride. Raises ValueError for what does not fit.
    """
    n_pictures, n_tokens, n_heads, n_channels = x.shape
    if n_channels % 2:
        raise ValueError(f"{n_channels} channels are no pairs")
    if cos.shape != (n_tokens, n_channels) or sin.shape != cos.shape or weight.shape != (n_channels,):
        raise ValueError(
            f"x {tuple(x.shape)} does not go with cos {tuple(cos.shape)}, sin {tuple(sin.shape)},"
            f" weight {tuple(weight.shape)}"
        )
    if x.stride(-1) != 1 or not all(table.is_contiguous() for table in (weight, cos, sin)):
        raise ValueError("qk_norm_rope takes channels side by side, and dense tables")
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return out
    block_d = max(2, triton.next_power_of_2(n_channels))
    block_h = min(triton.next_power_of_2(n_heads), max(1, 4096 // block_d))
    _rotate[(n_tokens, triton.cdiv(n_heads, block_h), n_pictures)](
        x,
        weight,
        cos,
        sin,
        out,
        x.stride(0),
        x.stride(1),
        x.stride(2),
        n_tokens,
        eps,
        H=n_heads,
        D=n_channels,
        BLOCK_H=block_h,
        BLOCK_D=block_d,
    )
    return out


@qk_norm_rope.register_fake
def _shape_of(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
