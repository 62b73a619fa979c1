"""Layer normalisation with the scale and shift of a timestep: what opens each half of a transformer block."""

from kernels.layer_norm_scale_shift.kernel import layer_norm_scale_shift
from kernels.layer_norm_scale_shift.reference import layer_norm_scale_shift_reference

__all__ = ["layer_norm_scale_shift", "layer_norm_scale_shift_reference"]
