"""Finished pixels as files: a picture as PNG, a clip as animated PNG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

_FRAMES_PER_SECOND = 16


def encode_png(pixels: torch.Tensor) -> bytes:
    """PNG bytes of one picture [1, C, H, W] or one clip [1, F, C, H, W], values in 0..1.

    Rounds as diffusers does, so the bytes show what the whole pipeline would have shown.
    """
    frames = pixels[0] if pixels.ndim == 5 else pixels
    values = frames.permute(0, 2, 3, 1).float().numpy()
    images = [Image.fromarray(frame) for frame in (values * 255).round().astype(np.uint8)]
    buffer = io.BytesIO()
    if len(images) == 1:
        images[0].save(buffer, format="PNG")
    else:
        duration_ms = 1000 // _FRAMES_PER_SECOND
        images[0].save(buffer, format="PNG", save_all=True, append_images=images[1:], duration=duration_ms)
    return buffer.getvalue()
