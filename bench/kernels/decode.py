"""Decodes of the full-size autoencoder of SD3 and Flux, which are alike but for two numbers behind them.

Weights are random, as its class makes them: times do not depend on them. Each variant has a copy of its own
with the same weights. Quality is how far a picture is from the same weights' in float32, in dB of the
picture's range.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from diffusers import AutoencoderKL

from bench.kernels.clock import Clock, Run
from bench.kernels.rows import Job, Row
from kernels.attach import attach
from kernels.switch import Switch
from kernels.tuning import tune

_TUNE_S = 30.0
_MOST_EXACT_PX = 1024
"""Up to here the picture in float32 is made; beyond it would need the memory of several decodes."""


def full_vae() -> Any:
    """As published: 16 latent channels, four levels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def tiny_vae() -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def jobs(clock: Clock, *, tiny: bool) -> list[Job]:
    """By size: first what starts at once, then what is compiled beside it."""
    sizes = (16,) if tiny else (1024, 2048, 512)
    made = [Job("decode", f"{px} px", functools.partial(_measure, clock, tiny, px, ())) for px in sizes]
    made += [
        Job("decode", f"{px} px, compiled", functools.partial(_measure, clock, tiny, px, ("compiled",)))
        for px in sizes
    ]
    return made


@torch.inference_mode()
def _measure(clock: Clock, tiny: bool, px: int, more: tuple[str, ...], row: Row) -> None:
    torch.manual_seed(0)
    plain = tiny_vae() if tiny else full_vae()
    # only the decoder is measured
    del plain.encoder
    # Triton's interpreter cuts to bfloat16 where a GPU rounds, which the look at the picture would refuse
    dtype = torch.float16 if tiny else torch.bfloat16
    plain = plain.to(clock.device, dtype).eval().requires_grad_(False)
    per_latent = 2 ** (len(plain.config.block_out_channels) - 1)
    shape = (1, plain.config.latent_channels, px // per_latent, px // per_latent)
    inputs = [torch.randn(shape, dtype=dtype, device=clock.device) for _ in range(3)]
    variants: dict[str, Run] = {"diffusers": _decode(plain)}
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    variants["channels-last"] = _decode(last)
    for name in more:
        graph = torch.compile(
            last.decoder,
            mode="max-autotune" if clock.device == "cuda" else None,
            backend="inductor" if clock.device == "cuda" else "eager",
        )
        # a replayed graph writes over what it returned before
        variants[name] = functools.partial(_through, graph)
    variants["kernels"] = _decode(_with_kernels(clock, copy.deepcopy(plain), inputs[0]))
    if px <= _MOST_EXACT_PX:
        _look(row, plain, variants, inputs[0])
    for name, run in variants.items():
        if name != "compiled":
            row.peak_bytes[name] = clock.peak_bytes(run, inputs[0])
    clock.measure(row, variants, inputs)


def _decode(vae: Any) -> Run:
    return lambda latents: vae.decode(latents).sample


def _through(graph: Any, latents: torch.Tensor) -> torch.Tensor:
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    made: torch.Tensor = graph(latents)
    return made


def _with_kernels(clock: Clock, vae: Any, latents: torch.Tensor) -> Any:
    """Everything on, with the settings that a worker would find at its start."""
    switch = Switch("triton", torch.device(clock.device))
    attach(vae, switch)
    if clock.device == "cuda":
        with switch.recording():
            vae.decode(latents)
        tune(switch, _TUNE_S)
    return vae


def _look(row: Row, plain: Any, variants: dict[str, Run], latents: torch.Tensor) -> None:
    """Raises `ValueError` if the kernels' picture is 0.5 dB further off than diffusers' own."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact: Any = _decode(copy.deepcopy(plain).float())(latents.float())
    exact = exact.double()
    extent = exact.max() - exact.min()
    row.quality_unit = "dB"
    for name, run in variants.items():
        if name != "compiled":
            error: Any = (run(latents).double() - exact).square().mean()  # type: ignore[attr-defined]
            row.quality[name] = float(10 * torch.log10(extent.square() / error))
    if not row.quality["kernels"] >= row.quality["diffusers"] - 0.5:
        raise ValueError(f"the kernels' picture is {row.quality}")
