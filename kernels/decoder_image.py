"""How the decoder of `AutoencoderKL` computes when it is switched: forms of modules by their attributes.

Everything is channels-last from the first convolution on. On a GPU a block's convolutions run without their
biases, which the norm behind the first and the sum behind the second take in; norm and SiLU are one op. On a
CPU oneDNN adds biases for nothing, so there only the SiLU and the sum are done in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernels.bias_residual import bias_residual_
from kernels.channels_last import channels_last
from kernels.group_norm_silu import group_norm_silu
from kernels.upsample_conv import fold, upsample_conv


class EntryConv(nn.Conv2d):
    """The first convolution; from it on pictures are channels-last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(channels_last(x))


class FusedGroupNorm(nn.GroupNorm):
    """On the kernel. [B, C, ...], of which the mid-block's attention makes [B, C, H x W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _norm(self, channels_last(x), activate=False)


class FusedGroupNormSilu(nn.GroupNorm):
    """With the SiLU that stands behind it in the model."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _norm(self, channels_last(x))


class InPlaceSilu(nn.SiLU):
    """Over what the norm before it has just made."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(x, inplace=True)


class FusedResnet(nn.Module):
    """`ResnetBlock2D` without a timestep: 9 passes over a picture beside its convolutions, not 19."""

    norm1: nn.GroupNorm
    norm2: nn.GroupNorm
    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv_shortcut: nn.Conv2d | None

    def forward(self, input_tensor: torch.Tensor, temb: None = None) -> torch.Tensor:
        """[B, C, H, W] channels-last in and out."""
        residual = input_tensor
        hidden = _without_bias(self.conv1, _norm(self.norm1, input_tensor))
        hidden = _without_bias(self.conv2, _norm(self.norm2, hidden, shift=self.conv1.bias))
        bias = _bias(self.conv2)
        if self.conv_shortcut is not None:
            residual = _without_bias(self.conv_shortcut, input_tensor)
            bias = bias.float() + _bias(self.conv_shortcut).float()
        bias_residual_(hidden, residual, bias)
        return hidden


class InPlaceResnet(nn.Module):
    """`ResnetBlock2D` without a timestep, on a CPU: SiLU and sum write over what the step before has made."""

    norm1: nn.GroupNorm
    norm2: nn.GroupNorm
    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv_shortcut: nn.Conv2d | None

    def forward(self, input_tensor: torch.Tensor, temb: None = None) -> torch.Tensor:
        """[B, C, H, W] in and out."""
        hidden = self.conv1(nn.functional.silu(self.norm1(input_tensor), inplace=True))
        hidden = self.conv2(nn.functional.silu(self.norm2(hidden), inplace=True))
        residual = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        summed: torch.Tensor = hidden.add_(residual)
        return summed


class FoldedUpsample(nn.Module):
    """`Upsample2D` with its convolution as one; `folded` is made of the convolution's weight."""

    conv: nn.Conv2d
    folded: torch.Tensor

    def forward(self, hidden_states: torch.Tensor, output_size: None = None) -> torch.Tensor:
        """[B, C, H, W] to [B, O, 2H, 2W]. Raises ValueError for another size."""
        if output_size is not None:
            raise ValueError("a folded upsampling makes twice the size, and no other")
        return upsample_conv(channels_last(hidden_states), self.folded, self.conv.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> FoldedUpsample:
        # a sum of rounded weights in a wider type is not the wider sum: SDXL widens its VAE for a decode
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.folded = fold(self.conv.weight)
        return self


def why_not_resnet(block: Any) -> str | None:
    """Why this `ResnetBlock2D` cannot be switched, or None."""
    if block.time_emb_proj is not None:
        return "takes a timestep"
    if block.upsample is not None or block.downsample is not None:
        return "changes the size"
    if block.output_scale_factor != 1:
        return "scales its output"
    if type(block.nonlinearity) is not nn.SiLU:
        return f"activates by {type(block.nonlinearity).__name__}"
    if block.dropout.p:
        return "drops out"
    convs = (block.conv1, block.conv2, block.conv_shortcut)
    if any(conv is not None and conv.bias is None for conv in convs):
        return "has a convolution without a bias"
    return None


def why_not_upsample(block: Any) -> str | None:
    """Why this `Upsample2D` cannot be folded, or None."""
    conv = getattr(block, "conv", None)
    if not (block.use_conv and isinstance(conv, nn.Conv2d) and block.interpolate and block.norm is None):
        return "is no nearest upsampling with a convolution behind it"
    if conv.kernel_size != (3, 3) or conv.padding != (1, 1) or conv.stride != (1, 1) or conv.groups != 1:
        return "has another convolution than 3x3"
    return None


def _norm(
    norm: nn.GroupNorm, x: torch.Tensor, *, activate: bool = True, shift: torch.Tensor | None = None
) -> torch.Tensor:
    normed: torch.Tensor = group_norm_silu(
        x, norm.weight, norm.bias, norm.num_groups, norm.eps, activate=activate, shift=shift
    )
    return normed


def _without_bias(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = conv._conv_forward(x, conv.weight, None)
    return made


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    assert conv.bias is not None
    return conv.bias
