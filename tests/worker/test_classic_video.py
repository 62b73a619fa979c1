"""The modular pipelines make the clips of diffusers' classic ones, guidance on and off.

The classic pipelines of LTX and CogVideoX run one batch of two where the modular ones run two of one, so sums
are taken in another order. What is compared are clips of values in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import msgspec
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from PIL import Image

from pipelines.catalogue import Model
from tests.families.cases import SOURCE, Case, case_of, source_picture
from tests.families.cogvideox import cogvideox
from tests.families.hunyuan_video import hunyuan_video
from tests.families.ltx import ltx
from tests.families.wan import wan
from wire.generation import Generation
from worker.task_pipeline import run_whole, task_generator


def cogvideox_2b(folder: Path) -> Model:
    """Like the 2B: positions are added to the tokens, DDIM."""
    model = cogvideox(folder, use_rotary_positional_embeddings=False)
    scheduler = Path(model.source, "scheduler")
    CogVideoXDDIMScheduler.from_pretrained(scheduler).save_pretrained(scheduler)
    index = Path(model.source, "model_index.json")
    index.write_text(index.read_text().replace("CogVideoXDPMScheduler", "CogVideoXDDIMScheduler"))
    return model


def cogvideox_15(folder: Path) -> Model:
    """Like the 1.5: patches of two latent frames, of which there are three."""
    return cogvideox(folder, patch_size_t=2, patch_bias=False)


class Classic(NamedTuple):
    """A tiny model, diffusers' class for it, what a clip starts from, and the largest difference allowed."""

    tiny: Callable[[Path], Model]
    pipeline: str
    workflow: str
    tolerance: float


CLASSIC = {
    "wan": Classic(wan, "WanPipeline", "text", 1e-6),  # seen: 0
    "hunyuan": Classic(hunyuan_video, "HunyuanVideo15Pipeline", "text", 1e-6),  # seen: 0
    "hunyuan-image": Classic(hunyuan_video, "HunyuanVideo15ImageToVideoPipeline", "image", 1e-6),  # seen: 0
    "ltx": Classic(ltx, "LTXPipeline", "text", 1e-5),  # seen: 9e-7
    "ltx-image": Classic(ltx, "LTXImageToVideoPipeline", "image", 1e-5),  # seen: 0
    "cogvideox-5b": Classic(cogvideox, "CogVideoXPipeline", "text", 2e-5),  # seen: 1.7e-6
    "cogvideox-2b": Classic(cogvideox_2b, "CogVideoXPipeline", "text", 2e-5),  # seen: 1.2e-6
    "cogvideox-1.5": Classic(cogvideox_15, "CogVideoXPipeline", "text", 2e-5),  # seen: 1.2e-6
}


@pytest.fixture(scope="module", params=CLASSIC)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Classic, Case, Any]:
    name: str = request.param
    classic = CLASSIC[name]
    case = case_of(classic.tiny(tmp_path_factory.mktemp(name)))
    pipe: Any = getattr(diffusers, classic.pipeline).from_pretrained(case.model.source)
    pipe.set_progress_bar_config(disable=True)
    return classic, case, pipe


@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
def test_agrees_with_the_classic_pipeline(pair: tuple[Classic, Case, Any], guidance_scale: float) -> None:
    classic, case, pipe = pair
    generation = msgspec.structs.replace(case.generation, guidance_scale=guidance_scale)
    picture: Image.Image | None = None
    if classic.workflow == "image":
        generation = msgspec.structs.replace(generation, image=SOURCE)
        source = source_picture(generation)
        assert source is not None
        picture = source.resize((80, 48))
    theirs = _clip(pipe, case.model, generation, picture)
    # HunyuanVideo's classic pipeline takes its size from the picture
    height_px, width_px = theirs.shape[-2:]
    generation = msgspec.structs.replace(generation, height_px=height_px, width_px=width_px)
    ours = run_whole(case.whole, generation, picture).get("videos")
    assert ours.shape == theirs.shape
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() <= classic.tolerance


def _clip(pipe: Any, model: Model, generation: Generation, picture: Image.Image | None) -> torch.Tensor:
    """The clip of diffusers' classic pipeline [1, F, C, H, W]."""
    inputs: dict[str, Any] = {
        "prompt": generation.prompt,
        "negative_prompt": "",
        "num_frames": generation.num_frames,
        "num_inference_steps": generation.num_inference_steps,
        "generator": task_generator(generation),
        "output_type": "pt",
        **model.inputs,
    }
    if picture is not None:
        inputs["image"] = picture
    if type(pipe).__name__ != "HunyuanVideo15ImageToVideoPipeline":
        inputs |= {"height": generation.height_px, "width": generation.width_px}
    if "guider" in pipe.components:
        pipe.guider = pipe.guider.new(guidance_scale=generation.guidance_scale)
    else:
        inputs["guidance_scale"] = generation.guidance_scale
    clip: torch.Tensor = pipe(**inputs).frames
    return clip
