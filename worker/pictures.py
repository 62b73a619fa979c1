"""Pictures as files: finished pixels, a clip as an animation, and source pictures back from theirs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.errors import FieldRefused
from wire.generation import FileFormat
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


def encode_picture(
    pixels: torch.Tensor,
    file_format: FileFormat = FileFormat.PNG,
    *,
    quality: int = 100,
    frames_per_second: int = 16,
) -> bytes:
    """The file of one picture [1, C, H, W] or one clip [1, F, C, H, W], values in 0..1.

    Rounds as diffusers does, so a PNG shows what the whole pipeline would have shown. Colours of a JPEG are
    kept at full size. Raises `FieldRefused` for a clip as JPEG.
    """
    frames = pixels[0] if pixels.ndim == 5 else pixels
    values = frames.permute(0, 2, 3, 1).float().numpy()
    first, *others = (Image.fromarray(frame) for frame in (values * 255).round().astype(np.uint8))
    options: dict[str, Any] = {}
    match file_format:
        case FileFormat.JPEG if others:
            raise FieldRefused("output_format", "a clip cannot be a jpeg")
        case FileFormat.JPEG:
            options = {"quality": quality, "subsampling": 0}
        case FileFormat.WEBP:
            options = {"quality": quality}
    if others:
        options |= {"save_all": True, "append_images": others, "duration": 1000 / frames_per_second}
        if file_format is FileFormat.WEBP:
            options["duration"] = round(options["duration"])
    buffer = io.BytesIO()
    first.save(buffer, format=file_format.value, **options)
    return buffer.getvalue()
