"""Pictures as files: finished pixels as PNG, a clip as animated PNG, and source pictures back from theirs."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from worker.errors import HandoffRefused


def decode_picture(data: bytes) -> Image.Image:
    """The picture in RGB, transparency laid on white. Raises `HandoffRefused` if `data` is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            with_alpha = picture.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise HandoffRefused(f"not a picture: {error}") from error
    white = Image.new("RGBA", with_alpha.size, "white")
    return Image.alpha_composite(white, with_alpha).convert("RGB")


def encode_png(pixels: torch.Tensor, frames_per_second: int = 16) -> bytes:
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
        duration_ms = 1000 / frames_per_second
        images[0].save(buffer, format="PNG", save_all=True, append_images=images[1:], duration=duration_ms)
    return buffer.getvalue()
