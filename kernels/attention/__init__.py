"""Scaled dot product attention over [B, T, H, D], forward only.

`attention` runs the Triton kernel or raises; `refusal` says beforehand why it would. Whoever wants the
fastest of several, or a fall-back, goes through `kernels.switch`.
"""

from kernels.attention.kernel import attention, attention_with_lse
from kernels.attention.limits import MAX_HEAD_SIZE, refusal
from kernels.attention.reference import attention_reference, attention_with_lse_reference
from kernels.attention.settings import Settings, settings_for

__all__ = [
    "MAX_HEAD_SIZE",
    "Settings",
    "attention",
    "attention_reference",
    "attention_with_lse",
    "attention_with_lse_reference",
    "refusal",
    "settings_for",
]
