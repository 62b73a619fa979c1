"""What the op computes, in plain torch."""

from __future__ import annotations

import torch


def qk_norm_rope_reference(
    x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> torch.Tensor:
    """x / rms(x) * weight over D, then channels 2i and 2i+1 rotated. x [B, T, H, D], weight [D].

    `cos`, `sin` [T, D], each value for one channel (Flux has both channels of a pair alike). Arithmetic is
    float32, or float64 for a float64 x, rounded once to x's type.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    values = x.to(wide)
    normed = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps) * weight.to(wide)
    even, odd = normed.reshape(*normed.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (normed * cos.to(wide)[:, None] + turned * sin.to(wide)[:, None]).to(x.dtype)
