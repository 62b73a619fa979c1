"""A convolution's bias and the residual in one pass.

cuDNN's convolutions leave the bias to a pass of its own and the sum to another: five readings and writings of
a picture that are three here.
"""

from kernels.bias_residual.kernel import bias_residual_
from kernels.bias_residual.reference import bias_residual_reference_

__all__ = ["bias_residual_", "bias_residual_reference_"]
