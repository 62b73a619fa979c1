"""Group normalisation, with SiLU behind it or not, on channels-last pictures: what fills a VAE decoder.

Source: FLUX.2 decode figures of SGLang (pull request 33451), where this pair took 46 % of a decode.
"""

from kernels.group_norm_silu.kernel import group_norm_silu
from kernels.group_norm_silu.reference import group_norm_silu_reference

__all__ = ["group_norm_silu", "group_norm_silu_reference"]
