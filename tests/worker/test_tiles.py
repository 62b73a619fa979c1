"""A tiled decode is exact over workers, another picture than a full one, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
from diffusers.models.autoencoders.vae import AutoencoderMixin

from pipelines.catalogue import load_catalogue
from pipelines.errors import FieldRefused
from tests.families.cases import (
    EMBEDDED,
    NAMES,
    SOURCE,
    Case,
    case_of,
    equal,
    holding,
    made_split,
    made_whole,
    source_picture,
)
from tests.families.sd3 import sd3
from tests.families.tiny import TINY
from wire.generation import Generation
from worker.errors import LoadRefused
from worker.stages import StageRun
from worker.task_pipeline import run_whole
from worker.tiles import decoding_in_tiles, latent_px


@dataclass(frozen=True)
class Tiled:
    """A model with tiles of four latents, and two requests for a picture at least twice as wide."""

    case: Case
    full: Generation
    tiled: Generation


@pytest.fixture(scope="module", params=NAMES)
def tiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiled:
    name: str = request.param
    model = (
        load_catalogue()["triptych-emoji"] if name == EMBEDDED else TINY[name](tmp_path_factory.mktemp(name))
    )
    tile_px = 4 * latent_px(holding(model, "decode").pipe.vae)
    case = case_of(msgspec.structs.replace(model, decode_tile_px=tile_px))
    side_px = max(2 * tile_px, model.default_size_px[0])
    full = msgspec.structs.replace(
        case.generation, width_px=side_px, height_px=side_px, num_inference_steps=2
    )
    return Tiled(case, full, msgspec.structs.replace(full, tiled_decode=True))


def test_tiled_is_exact_and_another_picture(tiled: Tiled) -> None:
    case = tiled.case
    before = made_whole(case, tiled.full)
    expected = made_whole(case, tiled.tiled)
    assert len(expected[1]) > len(before[1])
    assert equal(made_split(case, tiled.tiled, pause_at=(1,)), expected)
    output = case.whole.graphs["text"].output
    pictures = [run_whole(case.whole, generation).get(output) for generation in (tiled.full, tiled.tiled)]
    assert pictures[0].shape == pictures[1].shape
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-3)
    # the resident VAE is as it was
    for resident in (case.whole, case.alone["decode"]):
        assert not resident.pipe.vae.use_tiling
    assert equal(made_split(case, tiled.full), before)
    assert equal(made_whole(case, tiled.full), before)


def test_the_family_table_says_whose_vae_has_tiles(tiled: Tiled) -> None:
    vae = tiled.case.whole.pipe.vae
    assert isinstance(vae, AutoencoderMixin)
    assert hasattr(vae, "use_tiling") == tiled.case.model.family_table.tiles_decode


def test_a_picture_to_start_from_is_encoded_whole(tiled: Tiled) -> None:
    case = tiled.case
    if "vae_encoder" not in case.whole.stage_names:
        return
    strength = 0.6 if case.model.family_table.workflows["image"].takes_strength else None
    latents = []
    for generation in (tiled.full, tiled.tiled):
        generation = msgspec.structs.replace(generation, image=SOURCE, strength=strength)
        run = StageRun(case.whole, generation, None, source_picture(generation))
        run.run("text_encoder")
        run.run("vae_encoder")
        latents.append(run.payload("vae_encoder").values)
    assert latents[0].keys() == latents[1].keys()
    tensors = [name for name, value in latents[0].items() if isinstance(value, torch.Tensor)]
    assert all(torch.equal(latents[0][name], latents[1][name]) for name in tensors)


def test_without_a_size_in_the_catalogue_the_vaes_own_counts(tmp_path: Path) -> None:
    """The tiny VAE was made for 32 px: one tile for such a picture, nine for one of 64 px."""
    resident = holding(sd3(tmp_path))
    small = Generation(
        prompt="a cat", width_px=32, height_px=32, num_inference_steps=2, guidance_scale=1.0, seed=1
    )
    for side_px, same in ((32, True), (64, False)):
        full = msgspec.structs.replace(small, width_px=side_px, height_px=side_px)
        pictures = [
            run_whole(resident, msgspec.structs.replace(full, tiled_decode=tiled)).get("images")
            for tiled in (False, True)
        ]
        assert torch.equal(*pictures) == same


def test_what_has_no_tiles_refuses_the_field() -> None:
    with pytest.raises(FieldRefused) as refused:
        decoding_in_tiles(torch.nn.Linear(2, 2), None)
    assert refused.value.field == "tiled_decode"


def test_tiles_that_would_not_meet_are_refused(tmp_path: Path) -> None:
    vae = holding(sd3(tmp_path)).pipe.vae
    assert latent_px(vae) == 2
    with pytest.raises(LoadRefused, match="decode_tile_px of 12 is no multiple of 8"):
        decoding_in_tiles(vae, 12)
    vae.tile_sample_min_size, vae.tile_latent_min_size = 30, 15
    with pytest.raises(LoadRefused, match="30 px tiles of AutoencoderKL do not meet; decode_tile_px"):
        decoding_in_tiles(vae, None)
    assert decoding_in_tiles(vae, 24) is not vae
