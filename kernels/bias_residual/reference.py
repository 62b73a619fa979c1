"""What the op computes, in plain torch."""

from __future__ import annotations

import torch


def bias_residual_reference_(x: torch.Tensor, residual: torch.Tensor, bias: torch.Tensor) -> None:
    """x += residual + bias, in place, rounded once. x and residual [B, C, ...], bias [C]."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    added = bias.to(wide).reshape(-1, *([1] * (x.dim() - 2)))
    x.copy_(x.to(wide) + (residual.to(wide) + added))
