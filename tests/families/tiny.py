"""Tiny random models of real diffusers classes, saved to a folder as a published model would be.

Adding a family to the tests is one module beside this one and one line in `TINY`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.catalogue import Model
from tests.families.cogvideox import cogvideox
from tests.families.flux import flux, flux_schnell
from tests.families.flux2 import flux2, flux2_klein, flux2_klein_base
from tests.families.hunyuan_video import hunyuan_video
from tests.families.ltx import ltx
from tests.families.qwen_image import qwen_image
from tests.families.sd3 import sd3
from tests.families.sdxl import sdxl
from tests.families.wan import wan
from tests.families.z_image import z_image

TINY: dict[str, Callable[[Path], Model]] = {
    "sd3": sd3,
    "flux": flux,
    "flux-schnell": flux_schnell,
    "flux2": flux2,
    "flux2-klein": flux2_klein,
    "flux2-klein-base": flux2_klein_base,
    "qwen-image": qwen_image,
    "z-image": z_image,
    "sdxl": sdxl,
    "wan": wan,
    "hunyuan-video-1.5": hunyuan_video,
    "ltx": ltx,
    "cogvideox": cogvideox,
}
