"""One step of SD3-medium's and Flux' denoisers at full size with random weights, kernels off and on.

One network is measured, which is switched over and back between the calls: two of Flux would not fit. Off and
on are timed in turns all the same, and one after the other only where they are compiled.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

from bench.kernels.clock import Clock
from bench.kernels.rows import Job, Row
from kernels import denoiser
from kernels.attach import attach
from kernels.attention_hooks import attach_attention
from kernels.switch import Switch
from kernels.tuning import tune

_TUNE_S = 30.0
MOST_DIFFERENT = 5e-2
"""Of ||a - b|| / ||b||, two steps in bfloat16 through random weights."""


def sd3_config(*, tiny: bool) -> dict[str, Any]:
    """Of SD3-medium's transformer, or of one of its class in small."""
    if tiny:
        return {
            "sample_size": 8, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2,
            "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16,
            "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 8,
        }  # fmt: skip
    return {
        "sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "in_channels": 16, "out_channels": 16, "pos_embed_max_size": 192,
    }  # fmt: skip


def _flux(tiny: bool) -> dict[str, Any]:
    if tiny:
        return {
            "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 4, 8), "guidance_embeds": True,
        }  # fmt: skip
    return {"guidance_embeds": True}


def jobs(clock: Clock, *, tiny: bool) -> list[Job]:
    """At 1024 px: SD3 first, which is quick to make; compiling last."""
    names = ("SD3-medium", "Flux")
    return [
        Job("denoise", f"{name}{how}", functools.partial(_measure, clock, tiny, name, bool(how)))
        for how in ("", ", compiled")
        for name in names
    ]


@torch.inference_mode()
def _measure(clock: Clock, tiny: bool, name: str, compiled: bool, row: Row) -> None:
    """Raises `ValueError` if the step with kernels is another step: nothing is timed then."""
    kind = SD3Transformer2DModel if name == "SD3-medium" else FluxTransformer2DModel
    config = sd3_config(tiny=tiny) if name == "SD3-medium" else _flux(tiny)
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(clock.device):
            network = kind(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)
    inputs = [_inputs(clock, name, network.config, tiny) for _ in range(2)]
    call = network
    if compiled:
        call = torch.compile(network, backend="inductor" if clock.device == "cuda" else "eager")
    switch = Switch("triton", torch.device(clock.device))
    if clock.device == "cuda":
        attached = attach(network, switch)
        with switch.recording():
            network(**inputs[0])
        attached.detach()
        tune(switch, _TUNE_S)

    parts: dict[str, tuple[Any, ...]] = {
        "off": (),
        "attention": (attach_attention,),
        "norms": (denoiser.attach,),
        "on": (attach,),
    }

    @contextlib.contextmanager
    def switched(variant: str) -> Iterator[None]:
        on = [part(network, switch) for part in parts[variant]]
        try:
            yield
        finally:
            for each in on:
                each.detach()

    def step(given: dict[str, Any]) -> torch.Tensor:
        made: torch.Tensor = call(**given)[0]
        return made

    made = {}
    for variant in parts:
        with switched(variant):
            made[variant] = network(**inputs[0])[0].double()
    row.quality_unit = "relative difference to off"
    for variant in ("attention", "norms", "on"):
        row.quality[variant] = float((made[variant] - made["off"]).norm() / made["off"].norm())
    if not max(row.quality.values()) <= MOST_DIFFERENT:
        raise ValueError(f"steps with kernels differ: {row.quality}")
    if not compiled:
        clock.measure(row, dict.fromkeys(parts, step), inputs, switched)
        return
    # each is compiled once and measured to its end: switching over would compile it again
    for variant in ("off", "on"):
        with switched(variant):
            clock.measure(row, {variant: step}, inputs)
        torch.compiler.reset()


def _inputs(clock: Clock, name: str, config: Any, tiny: bool) -> dict[str, Any]:
    draw = functools.partial(torch.randn, dtype=torch.bfloat16, device=clock.device)
    side = 4 if tiny else 64
    n_text = 5 if tiny else 512 if name == "Flux" else 333
    made: dict[str, Any] = {
        "encoder_hidden_states": draw(1, n_text, config.joint_attention_dim),
        "pooled_projections": draw(1, config.pooled_projection_dim),
        "timestep": torch.full((1,), 0.5 if name == "Flux" else 500.0, device=clock.device),
        "return_dict": False,
    }
    if name == "SD3-medium":
        return {**made, "hidden_states": draw(1, config.in_channels, 2 * side, 2 * side)}
    places = torch.zeros(side, side, 3, device=clock.device)
    places[..., 1] += torch.arange(side, device=clock.device)[:, None]
    places[..., 2] += torch.arange(side, device=clock.device)
    return {
        **made,
        "timestep": made["timestep"].to(torch.bfloat16),
        "hidden_states": draw(1, side * side, config.in_channels),
        "guidance": torch.full((1,), 3.5, device=clock.device, dtype=torch.bfloat16),
        "img_ids": places.reshape(-1, 3),
        "txt_ids": torch.zeros(n_text, 3, device=clock.device),
    }
