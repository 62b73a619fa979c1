"""Nearest upsampling by two and the 3x3 convolution behind it, as one transposed convolution.

Source: SGLang's FLUX.2 decode (pull request 33451), which folds the pair into a transposed convolution of
kernel 4, stride 2, padding 1.
"""

from kernels.upsample_conv.kernel import fold, upsample_conv
from kernels.upsample_conv.reference import upsample_conv_reference

__all__ = ["fold", "upsample_conv", "upsample_conv_reference"]
