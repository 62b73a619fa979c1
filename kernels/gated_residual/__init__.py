"""A residual and what a block adds to it, weighed by the timestep's gate."""

from kernels.gated_residual.kernel import gated_residual
from kernels.gated_residual.reference import gated_residual_reference

__all__ = ["gated_residual", "gated_residual_reference"]
