"""How the decoders of Wan's and Qwen-Image's causal video autoencoders compute when they are switched.

These classes are alike but for their names: norms over the channels of a pixel with a SiLU behind, causal 3D
convolutions that remember frames, and upsampling by two in space with a 2D convolution behind. The norms
become one op in one pass, the upsampling one convolution; what is remembered between frames is left to the
model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernels.channels_last import channels_last
from kernels.rms_norm_silu import rms_norm_silu
from kernels.upsample_conv import fold, upsample_conv


class FusedChannelNorm(nn.Module):
    """`WanRMS_norm` on the kernel. [B, C, ...]."""

    gamma: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = rms_norm_silu(channels_last(x), self.gamma.flatten(), activate=False)
        return normed


class FusedChannelNormSilu(nn.Module):
    """With the SiLU that stands behind it in the model."""

    gamma: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = rms_norm_silu(channels_last(x), self.gamma.flatten())
        return normed


class FoldedResample(nn.Sequential):
    """Upsampling and convolution as one; `folded` is made of the convolution's weight."""

    folded: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B x T, C, H, W] to [B x T, O, 2H, 2W]."""
        return upsample_conv(channels_last(x), self.folded, self.conv.bias)

    @property
    def conv(self) -> Any:
        return self[1]

    def _apply(self, fn: Any, recurse: bool = True) -> FoldedResample:
        # a sum of rounded weights in a wider type is not the wider sum
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.folded = fold(self.conv.weight)
        return self


def why_not_norm(norm: Any) -> str | None:
    """Why this norm cannot be switched, or None."""
    if not norm.channel_first:
        return "has its channels last"
    return "has a bias" if isinstance(norm.bias, torch.Tensor) else None
