"""RMS normalisation of a query or key by head, and its rotation by position."""

from kernels.qk_norm_rope.kernel import qk_norm_rope
from kernels.qk_norm_rope.reference import qk_norm_rope_reference

__all__ = ["qk_norm_rope", "qk_norm_rope_reference"]
