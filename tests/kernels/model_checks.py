"""Whole decoders and denoisers with kernels on, against the same weights in diffusers' own form, on a device.

Tiny random models of the real classes, and the autoencoder that ships inside. The gate on pictures: in 16
bits the kernels' picture may be at most 0.5 dB further from the one in float32 than torch's own 16-bit
picture is. An op's error may look harmless and add up over a decoder; a picture does not lie.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from PIL import Image
from torch import nn

from kernels import decoder, denoiser, tuning
from kernels.by_shape import ByShape
from kernels.switch import Choice, Switch
from tests.families.parts import image_vae
from tests.kernels.interpreter import CHECKOUT
from tests.kernels.op_checks import Draws, poisoned
from worker.tiles import decoding_in_tiles

EMBEDDED = CHECKOUT / "models" / "triptych-emoji"
GATE_DB = 0.5


def frozen(model: Any, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """As a worker loads it, with norms that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and "linear" not in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.to(device, dtype).eval().requires_grad_(False)


def tiny_vae(**config: Any) -> Any:
    torch.manual_seed(0)
    vae = image_vae(4)
    return AutoencoderKL.from_config({**vae.config, **config}) if config else vae


def video_vae(kind: Any) -> Any:
    torch.manual_seed(0)
    return kind(
        base_dim=3, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def embedded_vae() -> Any:
    vae = AutoencoderKL.from_pretrained(EMBEDDED / "vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def sheet_latents(vae: Any) -> torch.Tensor:
    """Of one of the pictures that the embedded model was held against, at 64 px."""
    sheet = Image.open(EMBEDDED / "references.png").convert("RGB")
    side = min(sheet.width, sheet.height) // 4
    cut = np.asarray(sheet.crop((0, 0, side, side)).resize((64, 64)), np.float32)
    picture = torch.from_numpy(cut).permute(2, 0, 1)[None] / 127.5 - 1
    latents: torch.Tensor = vae.encode(picture).latent_dist.mode()
    return latents


def psnr_db(picture: torch.Tensor, exact: torch.Tensor) -> float:
    """Of pictures in -1..1."""
    error = (picture.double() - exact.double()).square().mean()
    return float(10 * torch.log10(4 / error))


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.data for parameter in module._parameters.values() if parameter is not None]


def modules_of(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What must be as it was when kernels are off again."""
    return {
        path: (type(module), tuple(module._buffers), [weight.clone() for weight in weights(module)])
        for path, module in model.named_modules()
    }


def assert_restored(before: dict[str, tuple[Any, ...]], model: nn.Module) -> None:
    after = modules_of(model)
    assert before.keys() == after.keys()
    for path, (kind, buffers, values) in before.items():
        assert (kind, buffers) == after[path][:2], path
        for one, other in zip(values, after[path][2], strict=True):
            assert torch.equal(one, other), path
            assert one.stride() == other.stride(), path


def on(device: str, mode: Any = "triton") -> Switch:
    return Switch(mode, torch.device(device))


@torch.inference_mode()
def image_decoders(device: str) -> None:
    """As SD3's and Flux', and as SDXL's, with a convolution before; blocks that change the channels."""
    draw = Draws(device)
    for config in (
        {},
        {"use_post_quant_conv": True, "latent_channels": 8},
        {"mid_block_add_attention": False},
    ):
        vae = frozen(tiny_vae(**config), device)
        other, before = copy.deepcopy(vae), modules_of(vae)
        latents = draw(2, vae.config.latent_channels, 5, 7)
        plain = vae.decode(latents).sample
        exact = copy.deepcopy(vae).double().decode(latents.double()).sample
        attached = decoder.attach(vae, on(device))
        assert attached.left == {}
        assert attached.switched["upsampling and convolution"] == 1
        assert attached.switched["residual block"] == 6
        with poisoned():
            made = vae.decode(latents).sample
        assert not torch.equal(made, plain)
        # both are float32; neither is the more exact one by much
        ours, torchs = ((picture.double() - exact).abs().max() for picture in (made, plain))
        assert ours <= 4 * torchs + 1e-6, (ours, torchs)
        assert torch.equal(other.decode(latents).sample, plain)
        attached.detach()
        attached.detach()
        assert_restored(before, vae)
        assert torch.equal(vae.decode(latents).sample, plain)


@torch.inference_mode()
def tiles(device: str) -> None:
    """A decode in tiles uses the decoder as it is switched, and another VAE's tiles do not."""
    vae = frozen(tiny_vae(sample_size=16), device)
    latents = Draws(device)(1, 4, 12, 12)
    whole, plain = vae.decode(latents).sample, decoding_in_tiles(vae, None).decode(latents).sample
    attached = decoder.attach(vae, on(device))
    tiled = decoding_in_tiles(vae, None).decode(latents).sample
    attached.detach()
    assert not torch.equal(tiled, plain)
    assert (tiled - plain).abs().max() < 0.1 * (plain - whole).abs().max()
    assert torch.equal(decoding_in_tiles(vae, None).decode(latents).sample, plain)


@torch.inference_mode()
def widened(device: str) -> None:
    """SDXL's blocks widen a float16 VAE for a decode: what is folded is folded anew from the weights."""
    vae = frozen(tiny_vae(), device, torch.float16)
    latents = Draws(device)(1, 4, 4, 4)
    exact = copy.deepcopy(vae).double().decode(latents.double()).sample
    attached = decoder.attach(vae, on(device))
    vae.to(torch.float32)
    made = vae.decode(latents).sample
    attached.detach()
    assert (made.double() - exact).abs().max() < 1e-5


@torch.inference_mode()
def video_decoders(device: str) -> None:
    """Wan's and Qwen-Image's, frame after frame."""
    draw = Draws(device)
    for kind in (AutoencoderKLWan, AutoencoderKLQwenImage):
        vae = frozen(video_vae(kind), device)
        before = modules_of(vae)
        latents = draw(1, 4, 3, 4, 3)
        plain = vae.decode(latents).sample
        attached = decoder.attach(vae, on(device))
        assert attached.left == {}
        assert attached.switched["upsampling and convolution"] == 2
        with poisoned():
            made = vae.decode(latents).sample
        assert made.shape == plain.shape
        assert not torch.equal(made, plain)
        assert (made - plain).abs().max() < 1e-5
        attached.detach()
        assert_restored(before, vae)
        assert torch.equal(vae.decode(latents).sample, plain)


@torch.inference_mode()
def pictures(device: str) -> None:
    """The gate, in both 16-bit types."""
    embedded = embedded_vae()
    cases = {
        "embedded": (embedded, sheet_latents(embedded)),
        "tiny": (frozen(tiny_vae()), Draws("cpu")(1, 4, 32, 32)),
        "video": (frozen(video_vae(AutoencoderKLWan)), Draws("cpu")(1, 4, 1, 16, 16)),
    }
    for name, (vae, latents) in cases.items():
        exact = vae.decode(latents).sample
        for dtype in (torch.bfloat16, torch.float16):
            narrow, given = copy.deepcopy(vae).to(device, dtype), latents.to(device, dtype)
            torchs_db = psnr_db(narrow.decode(given).sample.cpu(), exact)
            decoder.attach(narrow, on(device))
            ours_db = psnr_db(narrow.decode(given).sample.cpu(), exact)
            # written so that NaN fails
            assert ours_db >= torchs_db - GATE_DB, (name, dtype, ours_db, torchs_db)


@torch.inference_mode()
def compiled_decoder(device: str) -> None:
    """One graph with the ops in it, and the bits of the uncompiled decoder where nothing else is compiled."""
    vae = frozen(tiny_vae(), device)
    latents = Draws(device)(1, 4, 4, 4)
    decoder.attach(vae, on(device))
    expected = vae.decode(latents).sample
    graph: Any = torch.compile(vae.decoder, backend="aot_eager", fullgraph=True)
    assert torch.equal(graph(latents), expected)


def tiny_sd3(**config: Any) -> Any:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pooled_projection_dim=32, out_channels=4,
        pos_embed_max_size=32, **{"num_layers": 2, **config},
    )  # fmt: skip


def sd3_inputs(draw: Draws) -> dict[str, Any]:
    return {
        "hidden_states": draw(2, 4, 8, 12),
        "encoder_hidden_states": draw(2, 7, 32),
        "pooled_projections": draw(2, 32),
        "timestep": draw(2).abs() * 500,
        "return_dict": False,
    }


def tiny_flux() -> Any:
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip


def flux_inputs(draw: Draws) -> dict[str, Any]:
    ids = torch.zeros(15, 3)
    ids[:, 1], ids[:, 2] = torch.arange(15) // 5, torch.arange(15) % 5
    device = draw(1).device
    return {
        "hidden_states": draw(2, 15, 16),
        "encoder_hidden_states": draw(2, 7, 32),
        "pooled_projections": draw(2, 16),
        "timestep": draw(2).abs(),
        "guidance": draw(2).abs(),
        "img_ids": ids.to(device),
        "txt_ids": torch.zeros(7, 3, device=device),
        "return_dict": False,
    }


@torch.inference_mode()
def denoisers(device: str) -> None:
    """SD3 with both kinds of its blocks, and Flux with both of its; other models stay as they are."""
    draw = Draws(device)
    dual = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}
    cases = ((tiny_sd3(), sd3_inputs), (tiny_sd3(**dual), sd3_inputs), (tiny_flux(), flux_inputs))
    for model, inputs in cases:
        network = frozen(model, device)
        other, before, given = copy.deepcopy(network), modules_of(network), inputs(draw)
        plain = network(**given)[0]
        attached = denoiser.attach(network, on(device))
        assert attached.left == {}
        with poisoned():
            made = network(**given)[0]
        assert not torch.equal(made, plain)
        assert (made - plain).abs().max() < 2e-5 * plain.abs().max(), type(network)
        assert torch.equal(other(**given)[0], plain)
        attached.detach()
        assert_restored(before, network)
        assert torch.equal(network(**given)[0], plain)


@torch.inference_mode()
def compiled_denoiser(device: str) -> None:
    network, given = frozen(tiny_flux(), device), flux_inputs(Draws(device))
    denoiser.attach(network, on(device))
    expected = network(**given)[0]
    graph: Any = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.equal(graph(**given)[0], expected)


@torch.inference_mode()
def as_measured(device: str) -> None:
    """In "auto" torch's form where nothing was measured, then the faster one of the two at each size."""
    vae, network = frozen(tiny_vae(), device), frozen(tiny_sd3(num_layers=1), device)
    small, large, given = Draws(device)(1, 4, 4, 4), Draws(device)(1, 4, 9, 9), sd3_inputs(Draws(device))
    plain = [vae.decode(latents).sample for latents in (small, large)]
    plain_step, before = network(**given)[0], modules_of(vae)
    switch = Switch("auto", torch.device("cuda"))
    attached = decoder.attach(vae, switch)
    on_network = denoiser.attach(network, switch)
    assert isinstance(attached, ByShape)
    with switch.recording():
        assert torch.equal(vae.decode(small).sample, plain[0])
        assert torch.equal(network(**given)[0], plain_step)
    keys = sorted(switch.recorded)
    assert keys == ["decode Decoder float32 s3", "denoiser norms SD3Transformer2DModel float32 s4"]
    for call in switch.recorded.values():
        first, second = (variant.run() for variant in call())
        assert not torch.equal(first, second)
        assert (first - second).abs().max() < 1e-3
    assert torch.equal(vae.decode(small).sample, plain[0])
    switch.device = torch.device(device)
    said: list[str] = []
    usual, tuning.ROUNDS = tuning.ROUNDS, 1
    try:
        assert sorted(tuning.tune(switch, 60.0, said.append)) == keys, said
    finally:
        tuning.ROUNDS = usual
    switch.chosen = {key: Choice("triton") for key in keys}
    assert not torch.equal(vae.decode(small).sample, plain[0])
    assert torch.equal(vae.decode(large).sample, plain[1])
    assert not torch.equal(network(**given)[0], plain_step)
    attached.detach()
    on_network.detach()
    assert_restored(before, vae)
    assert torch.equal(network(**given)[0], plain_step)


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        image_decoders,
        tiles,
        widened,
        video_decoders,
        pictures,
        compiled_decoder,
        denoisers,
        compiled_denoiser,
        as_measured,
    )
}
