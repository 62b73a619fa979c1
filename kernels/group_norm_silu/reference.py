"""What the op computes, in plain torch."""

from __future__ import annotations

import torch


def group_norm_silu_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, n_groups: int, eps: float
) -> torch.Tensor:
    """silu(group_norm(x)). x [B, C, H, W] of any float type, weight and bias [C].

    Statistics and arithmetic are float32 whatever the input is; the result has x's type and memory format.
    """
    # not torch's group_norm, whose float32 result is off by a quarter at an offset of 1000
    groups = x.float().reshape(x.shape[0], n_groups, -1)
    variance, mean = torch.var_mean(groups, dim=-1, correction=0, keepdim=True)
    normed = ((groups - mean) * torch.rsqrt(variance + eps)).reshape(x.shape)
    scaled = normed * weight.float()[:, None, None] + bias.float()[:, None, None]
    return torch.nn.functional.silu(scaled).to(x.dtype).contiguous(memory_format=torch.channels_last)
