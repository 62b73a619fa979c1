"""What the kernel takes. Needs no Triton, so that anybody may ask."""

from __future__ import annotations

import torch

MAX_HEAD_SIZE = 512
"""The decoders of AutoencoderKL attend with one head of 512. Beyond it, a tile's accumulator has no room."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refusal(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> str | None:
    """Why the kernel does not take this call, in a few words that are always the same; None if it does.

    Raises nothing: what makes no sense as attention at all is torch's to refuse.
    """
    if not (q.ndim == k.ndim == v.ndim == 4):
        return "not [B, T, H, D]"
    if q.dtype not in DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        return "type"
    if not (q.device == k.device == v.device):
        return "device"
    if not 1 <= q.shape[3] <= MAX_HEAD_SIZE:
        return "head size"
    if k.shape != v.shape or q.shape[3] != k.shape[3] or q.shape[0] != k.shape[0]:
        return "shapes that differ"
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        return "shapes that differ"
    if 0 in q.shape or 0 in k.shape:
        return "empty"
    if any(tensor.stride(3) != 1 and tensor.shape[3] > 1 for tensor in (q, k, v)):
        return "strides"
    if scale is not None and not scale > 0:
        return "scale"
    return None if mask is None else _mask_refusal(q, k, mask)


def _mask_refusal(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> str | None:
    if mask.dtype != torch.bool and mask.dtype not in DTYPES:
        return "mask's type"
    if mask.device != q.device:
        return "device"
    full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    shape = (mask.shape[0], 1, 1, mask.shape[1]) if mask.ndim == 2 else tuple(mask.shape)
    if len(shape) != 4 or any(has not in (1, wanted) for has, wanted in zip(shape, full, strict=True)):
        return "mask's shape"
    return "mask's shape" if shape[3] != full[3] else None
