"""The table's bytes of a full decode, counted over the VAEs of published models; and who needs tiles.

A VAE on torch's meta device has sizes and no memory, so one of full size decodes in milliseconds while every
tensor's birth and end are counted. What the table says must not be less, nor more than a third above.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffusers
import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.catalogue import Model, load_catalogue
from pipelines.families import FAMILIES
from pipelines.tiles import decode_peak_bytes, needs_tiles

MODEL = Model(source="nobody/nothing", family="sd3")


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that were made inside and live; `peak_bytes` is the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._bytes:
                    self._bytes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._bytes.pop, storage._cdata)
        self.peak_bytes = max(self.peak_bytes, sum(self._bytes.values()))
        return made


def _image_vae(**config: Any) -> Any:
    """The VAE of SD3 and Flux; that of SD and SDXL has fewer latent channels."""
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        **{"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, **config},
    )


def _cogvideox() -> Any:
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4
    )


def _embedded() -> Any:
    source = load_catalogue()["triptych-emoji"].source
    return diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(source, subfolder="vae"))


SHARED = (_image_vae, 16, 8)
# diffusers' defaults are the published sizes of those that are named only by their class
VAES: dict[str, tuple[Callable[[], Any], int, int]] = {
    "sdxl": (lambda: _image_vae(latent_channels=4), 4, 8),
    "flux2": (diffusers.AutoencoderKLFlux2, 32, 8),
    "flux2-klein": (diffusers.AutoencoderKLFlux2, 32, 8),
    "flux2-klein-base": (diffusers.AutoencoderKLFlux2, 32, 8),
    "qwen-image": (diffusers.AutoencoderKLQwenImage, 16, 8),
    "wan": (diffusers.AutoencoderKLWan, 16, 8),
    "hunyuan-video-1.5": (diffusers.AutoencoderKLHunyuanVideo15, 32, 16),
    "ltx": (diffusers.AutoencoderKLLTXVideo, 128, 32),
    "cogvideox": (_cogvideox, 16, 8),
}
"""By family: its VAE, the channels of its latents, and pixels for a latent. All others have `SHARED`."""

FRAMES_PER_LATENT = {"wan": 4, "hunyuan-video-1.5": 4, "ltx": 8, "cogvideox": 4}


def _counted_bytes(vae: Callable[[], Any], latents: tuple[int, ...]) -> int:
    with torch.device("meta"):
        module = vae().to(torch.bfloat16)
        noise = torch.empty(latents, dtype=torch.bfloat16)
    live = LiveBytes()
    with torch.no_grad(), live:
        module.decode(noise)
    return live.peak_bytes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("latent_frames", [2, 6])
def test_the_table_is_what_the_vae_needs(family: str, latent_frames: int) -> None:
    vae, channels, latent_px = VAES.get(family, SHARED)
    model = msgspec.structs.replace(MODEL, family=family)
    # above 512 px a VAE's attention would be counted with its matrix, which fused attention never makes
    side = 512 // latent_px
    if FAMILIES[family].output == "videos":
        num_frames = (latent_frames - 1) * FRAMES_PER_LATENT[family] + 1
        latents: tuple[int, ...] = (1, channels, latent_frames, side, side)
    else:
        num_frames = 1
        latents = (1, channels, 1, side, side) if family == "qwen-image" else (1, channels, side, side)
    counted = _counted_bytes(vae, latents)
    told = decode_peak_bytes(model, 512, 512, num_frames)
    assert counted <= told <= counted * 4 / 3


def test_the_embedded_model_is_counted() -> None:
    counted = _counted_bytes(_embedded, (1, 16, 16, 16))
    assert counted <= decode_peak_bytes(load_catalogue()["triptych-emoji"], 128, 128, 1) <= counted * 4 / 3


def test_a_bound_between_two_sizes_parts_them() -> None:
    bound = decode_peak_bytes(MODEL, 1024, 1024, 1)
    assert bound == 1600 * 1024 * 1024
    assert not needs_tiles(MODEL, 1024, 1024, 1, bound)
    assert needs_tiles(MODEL, 1024, 1040, 1, bound)
    # float32 takes twice as much, and a CPU always computes in it
    assert needs_tiles(MODEL, 1024, 1024, 1, bound, on_cpu=True)
    wide = msgspec.structs.replace(MODEL, dtype="float32")
    assert needs_tiles(wide, 1024, 1024, 1, bound)
    assert decode_peak_bytes(wide, 64, 64, 1, on_cpu=True) == decode_peak_bytes(wide, 64, 64, 1)


def test_an_entry_replaces_the_familys_figure() -> None:
    small = msgspec.structs.replace(MODEL, decode_bytes_per_px=10)
    assert decode_peak_bytes(small, 100, 10, 1) == 10_000


def test_a_clip_counts_the_frames_that_are_in_work_together() -> None:
    wan, ltx = (msgspec.structs.replace(MODEL, family=family) for family in ("wan", "ltx"))
    assert decode_peak_bytes(wan, 64, 64, 81) == decode_peak_bytes(wan, 64, 64, 5)
    assert decode_peak_bytes(ltx, 64, 64, 81) == 9 * decode_peak_bytes(ltx, 64, 64, 9)


def test_a_vae_without_tiles_never_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "sd3", msgspec.structs.replace(FAMILIES["sd3"], tiles_decode=False))
    assert not needs_tiles(MODEL, 2048, 2048, 1, 1)
