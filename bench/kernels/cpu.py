"""The decoder's form for a CPU against diffusers' own, on the model that ships inside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL

from bench.host import CHECKOUT
from bench.kernels.clock import Clock
from bench.kernels.rows import Row
from kernels import decoder
from kernels.switch import Switch

MOST_DIFFERENT = 1e-4
"""Of a picture in -1..1; a step of 8 bits is 8e-3."""


class Refused(Exception):
    """The picture is another one: the text says by how much."""


@torch.inference_mode()
def measure(n_rounds: int, sizes_px: tuple[int, ...], seed: int) -> list[Row]:
    """Decodes of one picture, in processor time. Raises `Refused`."""
    clock = Clock("cpu", n_rounds)
    source = CHECKOUT / "models" / "triptych-emoji" / "vae"
    plain: Any = AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32).eval().requires_grad_(False)
    ours = copy.deepcopy(plain)
    attached = decoder.attach(ours, Switch("auto", torch.device("cpu")))
    generator = torch.Generator().manual_seed(seed)
    made = []
    for px in sizes_px:
        latents = torch.randn(1, plain.config.latent_channels, px // 8, px // 8, generator=generator)
        apart = float((ours.decode(latents).sample - plain.decode(latents).sample).abs().max())
        if not apart <= MOST_DIFFERENT:
            raise Refused(f"at {px} px a pixel differs by {apart:.1e}")
        row = Row("cpu", f"{px} px", quality={"form for a CPU": apart}, quality_unit="largest difference")
        variants = {
            "diffusers": lambda given: plain.decode(given).sample,
            "form for a CPU": lambda given: ours.decode(given).sample,
        }
        clock.measure(row, variants, [latents])
        made.append(row)
    attached.detach()
    return made
