"""What the op computes, in plain torch."""

from __future__ import annotations

import torch


def layer_norm_scale_shift_reference(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """layer_norm(x) * (1 + scale) + shift over C. x [B, T, C], scale and shift [B, C], any float types.

    Arithmetic is float32, or float64 for a float64 x, rounded once to x's type.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    normed = torch.nn.functional.layer_norm(x.to(wide), x.shape[-1:], eps=eps)
    return (normed * (1 + scale.to(wide)[:, None]) + shift.to(wide)[:, None]).to(x.dtype)
