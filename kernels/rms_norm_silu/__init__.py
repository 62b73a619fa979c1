"""RMS normalisation over channels, with SiLU behind it or not: what the causal video autoencoders have.

Those are Wan's and Qwen-Image's, whose published class divides by the length of a pixel's channels.
"""

from kernels.rms_norm_silu.kernel import rms_norm_silu
from kernels.rms_norm_silu.reference import rms_norm_silu_reference

__all__ = ["rms_norm_silu", "rms_norm_silu_reference"]
