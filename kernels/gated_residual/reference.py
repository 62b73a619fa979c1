"""What the op computes, in plain torch."""

from __future__ import annotations

import torch


def gated_residual_reference(residual: torch.Tensor, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """residual + gate * x. residual and x [B, T, C], gate [B, C], any float types.

    Arithmetic is float32, or float64 for a float64 residual, rounded once to the residual's type.
    """
    wide = torch.float64 if residual.dtype == torch.float64 else torch.float32
    return (residual.to(wide) + gate.to(wide)[:, None] * x.to(wide)).to(residual.dtype)
