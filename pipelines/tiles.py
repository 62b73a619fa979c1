"""Whether a decode has to be tiled to stay within a bound of memory. Pure figures: no torch, no I/O.

Tiles are decoded one after the other and blended where they overlap, so a tiled picture is another picture
than a full one. Who asks this puts the answer into `Generation.tiled_decode`, where it belongs to what the
picture is.
"""

from __future__ import annotations

from pipelines.catalogue import Model


def decode_peak_bytes(
    model: Model, width_px: int, height_px: int, num_frames: int, *, on_cpu: bool = False
) -> int:
    """Bytes of activations at the peak of the full decode of one picture or clip; weights are not counted.

    An estimate from what live tensors need: what a convolution takes as work space comes on top. `on_cpu`: a
    CPU computes in float32 whatever the model's dtype. SDXL's published VAE does so too where the dtype is
    float16; an entry's `decode_bytes_per_px` can say it.
    """
    family = model.family_table
    per_px = model.decode_bytes_per_px or family.decode_bytes_per_px
    widening = 2 if on_cpu or model.dtype == "float32" else 1
    frames_at_once = min(num_frames, family.decode_frames_at_once or num_frames)
    return per_px * widening * width_px * height_px * frames_at_once


def needs_tiles(
    model: Model,
    width_px: int,
    height_px: int,
    num_frames: int,
    memory_bytes: int,
    *,
    on_cpu: bool = False,
) -> bool:
    """Whether the full decode would need more than `memory_bytes`, and the VAE can do it in tiles instead."""
    if not model.family_table.tiles_decode:
        return False
    return decode_peak_bytes(model, width_px, height_px, num_frames, on_cpu=on_cpu) > memory_bytes
