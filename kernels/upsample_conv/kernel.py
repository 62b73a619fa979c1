"""Upsampling and convolution as one transposed convolution, which cuDNN and oneDNN have.

Of the nine taps of the convolution on doubled pixels several fall on one pixel of x. Output row 2i reads rows
i-1, i, i of x, row 2i+1 reads i, i, i+1; so along one side the taps (a, b, c) become (c, b+c, a+b, a) of a
transposed convolution of kernel 4, stride 2, padding 1. It makes 4/9 of the products, and the doubled
picture, the largest tensor of a decoder, is never written. Outside the picture both read zeros: borders are
equal.

Rejected: four convolutions of 2x2, one for each parity of row and column. They are the same products, but
their results have to be woven together, a pass over the largest tensor that the transposed one spares.
"""

from __future__ import annotations

import torch

_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def fold(weight: torch.Tensor) -> torch.Tensor:
    """The weight [C, O, 4, 4] for `upsample_conv` of a convolution's weight [O, C, 3, 3], channels-last.

    Sums are made in float32 (float64 for float64) and rounded once to the weight's type.
    """
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    taps = torch.tensor(_TAPS, dtype=wide, device=weight.device)
    folded = taps @ weight.detach().to(wide).transpose(0, 1) @ taps.T
    return folded.to(weight.dtype).contiguous(memory_format=torch.channels_last)


def upsample_conv(x: torch.Tensor, folded: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """conv3x3(nearest2x(x)) with the weight that `fold` made of the convolution's.

    x [B, C, H, W], folded [C, O, 4, 4], bias [O]; [B, O, 2H, 2W]. A plain torch call, so there is nothing to
    register: `torch.compile` sees the convolution itself.
    """
    return torch.nn.functional.conv_transpose2d(x, folded, bias, stride=2, padding=1)
