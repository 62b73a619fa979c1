"""What the op computes, in plain torch."""

from __future__ import annotations

import torch

SHORTEST = 1e-12
"""A pixel's channels are divided by their length or by this; torch's `normalize` has the same bound."""


def rms_norm_silu_reference(x: torch.Tensor, weight: torch.Tensor, activate: bool = True) -> torch.Tensor:
    """silu(x / |x| * sqrt(C) * weight), or without the silu; |x| over C. x [B, C, ...], weight [C].

    Arithmetic is float32, or float64 for a float64 x; the result has x's type and strides.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    values = x.to(wide)
    length = values.square().sum(dim=1, keepdim=True).sqrt().clamp(min=SHORTEST)
    gain = weight.to(wide).reshape(-1, *([1] * (x.dim() - 2))) * x.shape[1] ** 0.5
    out = values / length * gain
    if activate:
        out = torch.nn.functional.silu(out)
    return torch.empty_like(x).copy_(out)
