"""LayerNorm, scale and shift in one pass: a program holds one row of C channels.

Mean and squared deviations are of the row as it is held, so nothing cancels. A row has the same bits whatever
else is in the batch. B pictures, T tokens, C channels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _normalise(
    x,
    scale,
    shift,
    out,
    stride_b,
    stride_t,
    scale_stride,
    shift_stride,
    n_tokens,
    eps,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    picture = tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK_C)
    held = channels < C
    row = x + picture * stride_b + token * stride_t
    values = tl.load(row + channels, mask=held, other=0.0).to(tl.float32)
    factor = tl.load(scale + picture * scale_stride + channels, mask=held, other=0.0).to(tl.float32)
    added = tl.load(shift + picture * shift_stride + channels, mask=held, other=0.0).to(tl.float32)
    mean = tl.sum(values) / C
    deviation = tl.where(held, values - mean, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(deviation * deviation) / C + eps)
    result = deviation * inverse * (1.0 + factor) + added
    place = out + (picture * n_tokens + token) * C
    tl.store(place + channels, result.to(out.dtype.element_ty), mask=held)


@torch.library.custom_op(
    "triptych::layer_norm_scale_shift",
    mutates_args=(),
    schema="(Tensor x, Tensor scale, Tensor shift, float eps) -> Tensor",
)
def layer_norm_scale_shift(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """layer_norm(x) * (1 + scale) + shift, contiguous. x [B, T, C], scale and shift [B, C].

    Batch and tokens may have any stride, channels must lie side by side. Raises ValueError otherwise, or if
    the shapes do not fit.
    """
    n_pictures, n_tokens, n_channels = x.shape
    if scale.shape != (n_pictures, n_channels) or shift.shape != (n_pictures, n_channels):
        raise ValueError(
            f"x {tuple(x.shape)} does not go with scale {tuple(scale.shape)}, shift {tuple(shift.shape)}"
        )
    if not all(tensor.stride(-1) == 1 for tensor in (x, scale, shift)):
        raise ValueError("layer_norm_scale_shift takes channels side by side")
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return out
    block_c = triton.next_power_of_2(n_channels)
    _normalise[(n_tokens, n_pictures)](
        x,
        scale,
        shift,
        out,
        x.stride(0),
        x.stride(1),
        scale.stride(0),
        shift.stride(0),
        n_tokens,
        eps,
        C=n_channels,
        BLOCK_C=block_c,
        num_warps=_n_warps(block_c),
    )
    return out


def _n_warps(block_c: int) -> int:
    """16 values a thread: enough loads in flight, and a row stays in registers."""
    return min(16, max(1, block_c // 512))


@layer_norm_scale_shift.register_fake
def _shape_of(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
