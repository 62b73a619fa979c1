"""What the op computes, in plain torch."""

from __future__ import annotations

import torch


def group_norm_silu_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    n_groups: int,
    eps: float,
    activate: bool = True,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """silu(group_norm(x + shift)), or without the silu. x [B, C, ...] of any float type, the rest [C].

    `shift`: the bias of the convolution that made x, which is spared its own pass over memory that way.
    Statistics and arithmetic are float32, or float64 for a float64 x; the result has x's type and strides.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    per_channel = (-1, *([1] * (x.dim() - 2)))
    values = x.to(wide)
    if shift is not None:
        values = values + shift.to(wide).reshape(per_channel)
    # not torch's group_norm, whose float32 result is off by a quarter at an offset of 1000
    groups = values.reshape(x.shape[0], n_groups, -1)
    variance, mean = torch.var_mean(groups, dim=-1, correction=0, keepdim=True)
    normed = ((groups - mean) * torch.rsqrt(variance + eps)).reshape(x.shape)
    out = normed * weight.to(wide).reshape(per_channel) + bias.to(wide).reshape(per_channel)
    if activate:
        out = torch.nn.functional.silu(out)
    return torch.empty_like(x).copy_(out)
