"""The checks of `model_checks` under Triton's interpreter and on a GPU, and the decoder's form for a CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKLWan, AutoencoderTiny

from kernels import decoder, denoiser
from kernels.decoder_image import FoldedUpsample
from tests.kernels.interpreter import interpreted
from tests.kernels.model_checks import (
    CHECKS,
    assert_restored,
    embedded_vae,
    frozen,
    modules_of,
    on,
    sheet_latents,
    tiny_sd3,
    tiny_vae,
    video_vae,
)
from tests.kernels.op_checks import Draws


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return interpreted("tests.kernels.model_checks")


@pytest.mark.parametrize("name", CHECKS)
def test_interpreted(said: dict[str, str], name: str) -> None:
    assert said[name] == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str) -> None:
    # differences are looked for that tf32 would hide
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        CHECKS[name]("cuda")


@torch.inference_mode()
def test_on_a_cpu_auto_is_a_form_without_triton() -> None:
    """The shipped autoencoder: the same picture within rounding, its weights where they were."""
    vae = embedded_vae()
    latents = sheet_latents(vae)
    other, before = copy.deepcopy(vae), modules_of(vae)
    places = {name: parameter.data_ptr() for name, parameter in vae.named_parameters()}
    plain = vae.decode(latents).sample
    attached = decoder.attach(vae, on("cpu", "auto"))
    assert attached.left == {}
    assert attached.switched == {
        "channels-last entry": 1,
        "residual block": 10,
        "folded": 3,
        "upsampling and convolution": 3,
        "SiLU in place": 1,
    }
    made = vae.decode(latents).sample
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(made, plain)
    # pictures are in -1..1 and have 255 steps of 8e-3
    assert (made - plain).abs().max() < 2e-5
    assert torch.equal(vae.decode(latents).sample, made)
    assert places == {name: parameter.data_ptr() for name, parameter in vae.named_parameters()}
    assert vae.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(other.decode(latents).sample, plain)
    attached.detach()
    assert_restored(before, vae)
    assert places == {name: parameter.data_ptr() for name, parameter in vae.named_parameters()}
    assert torch.equal(vae.decode(latents).sample, plain)


def test_off_is_diffusers_own() -> None:
    vae, network = tiny_vae(), tiny_sd3()
    before = modules_of(vae)
    for attached in (decoder.attach(vae, on("cpu", "torch")), denoiser.attach(network, on("cpu", "torch"))):
        assert (attached.switched, attached.left) == ({}, {"": "kernels are off"})
    assert_restored(before, vae)
    # Triton has no form for a CPU
    assert denoiser.attach(network, on("cpu", "auto")).switched == {}


def test_what_is_left_is_told() -> None:
    torch.manual_seed(0)
    other = AutoencoderTiny()
    assert decoder.plan(other, on_cpu=False).left == {"": "no fused decoder for a AutoencoderTiny"}
    assert "decoder" in decoder.plan(video_vae(AutoencoderKLWan), on_cpu=True).left
    vae = tiny_vae()
    vae.decoder.mid_block.resnets[0].nonlinearity = torch.nn.GELU()
    assert decoder.plan(vae, on_cpu=False).left == {"decoder.mid_block.resnets.0": "activates by GELU"}
    network = tiny_sd3()
    network.transformer_blocks[0].set_chunk_feed_forward(2)
    assert denoiser.plan(network).left == {"transformer_blocks.0": "feeds forward in chunks"}
    assert "no fused norms" in denoiser.plan(torch.nn.Linear(2, 2)).left[""]


def test_another_size_than_twice_is_refused() -> None:
    vae = frozen(tiny_vae())
    decoder.attach(vae, on("cpu", "auto"))
    folded = next(module for module in vae.modules() if isinstance(module, FoldedUpsample))
    with pytest.raises(ValueError, match="twice the size"):
        folded(Draws("cpu")(1, 16, 4, 4), (9, 9))
