"""Dense tensors with channels side by side, in any number of dimensions."""

from __future__ import annotations

import torch


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """x [B, C, ...] with its channels side by side in memory; x itself if they are."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)
