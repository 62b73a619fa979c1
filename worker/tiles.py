"""A VAE that decodes in tiles, for one task; the resident one and its encoder are never changed.

Diffusers' classes describe their tiles in one of three ways: by one side and an overlap, by two of each, or
by sides and strides. Where sides and overlaps are no whole numbers of latents the tiles do not meet, and the
picture comes out shifted or of another size without an error, so this is checked before anything is decoded.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from pipelines.errors import FieldRefused
from worker.errors import LoadRefused

_OVERLAP = 4
"""Tiles overlap by one part in so many, so their sides are that many latents or multiples of it."""


def decoding_in_tiles(vae: Any, tile_px: int | None) -> Any:
    """A copy of `vae` that shares all weights and whose `decode` goes in tiles of `tile_px`, or its own size.

    Encoding stays whole: a picture to start from is the same latents, however the result is decoded. A
    stand-in decodes nothing and is returned as it is. Raises `FieldRefused` for "tiled_decode" if this class
    has no tiles, `LoadRefused` if they cannot have that size.
    """
    if not isinstance(vae, torch.nn.Module):
        return vae
    if not hasattr(vae, "use_tiling"):
        raise FieldRefused("tiled_decode", f"{type(vae).__name__} does not decode in tiles")
    tiling: Any = copy.copy(vae)
    tiling.enable_tiling()
    if tile_px is not None:
        _set_side(tiling, tile_px)
    _check_that_tiles_meet(tiling)
    own: Any = copy.copy(vae)
    own.decode = tiling.decode
    return own


def latent_px(vae: Any) -> int:
    """Pixels of the picture's side for one latent."""
    for side in ("size", "height"):
        if hasattr(vae, f"tile_latent_min_{side}"):
            tile_px: int = getattr(vae, f"tile_sample_min_{side}")
            latents: int = getattr(vae, f"tile_latent_min_{side}")
            return round(tile_px / latents)
    ratio: int = vae.spatial_compression_ratio
    return ratio


def _set_side(vae: Any, tile_px: int) -> None:
    of_latent_px = latent_px(vae)
    if tile_px % (_OVERLAP * of_latent_px):
        raise LoadRefused(f"decode_tile_px of {tile_px} is no multiple of {_OVERLAP * of_latent_px}")
    sizes: dict[str, float] = {"tile_overlap_factor": 1 / _OVERLAP}
    for side in ("size", "height", "width"):
        sizes[f"tile_sample_min_{side}"] = tile_px
        sizes[f"tile_latent_min_{side}"] = tile_px // of_latent_px
        sizes[f"tile_sample_stride_{side}"] = tile_px - tile_px // _OVERLAP
        sizes[f"tile_overlap_factor_{side}"] = 1 / _OVERLAP
    known = {name: size for name, size in sizes.items() if hasattr(vae, name)}
    if not known:
        raise LoadRefused(f"decode_tile_px: the tiles of {type(vae).__name__} have no size that can be set")
    for name, size in known.items():
        setattr(vae, name, size)


def _check_that_tiles_meet(vae: Any) -> None:
    of_latent_px = latent_px(vae)
    for side in ("size", "height", "width"):
        tile_px = getattr(vae, f"tile_sample_min_{side}", None)
        if tile_px is None:
            continue
        if hasattr(vae, f"tile_sample_stride_{side}"):
            step_px = kept_px = getattr(vae, f"tile_sample_stride_{side}")
        else:
            overlap = getattr(vae, f"tile_overlap_factor_{side}", None) or vae.tile_overlap_factor
            step_px = int(getattr(vae, f"tile_latent_min_{side}") * (1 - overlap)) * of_latent_px
            kept_px = tile_px - int(tile_px * overlap)
        if step_px != kept_px or step_px % of_latent_px or step_px == 0:
            name = type(vae).__name__
            raise LoadRefused(f"the {tile_px} px tiles of {name} do not meet; decode_tile_px sets others")
