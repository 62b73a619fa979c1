"""The modular pipelines make the pictures of diffusers' classic ones, guidance on and off.

Several classic pipelines run the two passes of guidance as one batch where the modular ones run two, so sums
are taken in another order. What is compared are pictures of values in 0..1.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import diffusers
import msgspec
import pytest
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.modular_pipelines.flux2.encoders import Flux2TextEncoderStep

from tests.families.cases import SOURCE, Case, case_of, source_picture
from tests.families.tiny import TINY
from wire.generation import Generation
from worker.task_pipeline import run_whole, task_generator


class Classic(NamedTuple):
    """A family of `TINY`, diffusers' class for it, what it starts from, the largest difference allowed."""

    family: str
    pipeline: str
    workflow: str
    tolerance: float


CLASSIC = (
    Classic("sd3", "StableDiffusion3Pipeline", "text", 1e-5),  # seen: 1.1e-6
    Classic("sd3", "StableDiffusion3Img2ImgPipeline", "image", 1e-5),  # seen: 8.9e-7
    Classic("flux", "FluxPipeline", "text", 1e-6),  # seen: 0
    Classic("flux", "FluxImg2ImgPipeline", "image", 1e-6),  # seen: 0
    Classic("flux-schnell", "FluxPipeline", "text", 1e-6),  # seen: 0
    Classic("flux-schnell", "FluxImg2ImgPipeline", "image", 1e-6),  # seen: 0
    Classic("flux2", "Flux2Pipeline", "text", 1e-6),  # seen: 0
    Classic("flux2", "Flux2Pipeline", "image", 1e-6),  # seen: 0
    Classic("flux2-klein", "Flux2KleinPipeline", "text", 1e-6),  # seen: 0
    Classic("flux2-klein", "Flux2KleinPipeline", "image", 1e-6),  # seen: 0
    Classic("flux2-klein-base", "Flux2KleinPipeline", "text", 1e-6),  # seen: 0
    Classic("flux2-klein-base", "Flux2KleinPipeline", "image", 1e-6),  # seen: 0
    Classic("qwen-image", "QwenImagePipeline", "text", 1e-6),  # seen: 0
    Classic("qwen-image", "QwenImageImg2ImgPipeline", "image", 1e-6),  # seen: 0
    Classic("z-image", "ZImagePipeline", "text", 1e-5),  # seen: 8.6e-7
    Classic("z-image", "ZImageImg2ImgPipeline", "image", 1e-5),  # seen: 1.1e-6
    Classic("sdxl", "StableDiffusionXLPipeline", "text", 1e-5),  # seen: 7.7e-7
    Classic("sdxl", "StableDiffusionXLImg2ImgPipeline", "image", 1e-5),  # seen: 7.7e-7
)


@pytest.fixture(scope="module", params=CLASSIC, ids=lambda classic: f"{classic.family}-{classic.workflow}")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Classic, Case, Any]:
    classic: Classic = request.param
    case = case_of(TINY[classic.family](tmp_path_factory.mktemp(classic.family)))
    pipe: Any = getattr(diffusers, classic.pipeline).from_pretrained(case.model.source)
    pipe.set_progress_bar_config(disable=True)
    return classic, case, pipe


@pytest.mark.parametrize(
    ("guidance_scale", "negative_prompt"), [(3.5, None), (3.5, "a dog"), (1.0, None)], ids=repr
)
def test_agrees_with_the_classic_pipeline(
    pair: tuple[Classic, Case, Any],
    guidance_scale: float,
    negative_prompt: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classic, case, pipe = pair
    family = case.model.family_table
    if negative_prompt is not None and not family.takes_negative_prompt:
        negative_prompt = None
    generation = msgspec.structs.replace(
        case.generation, guidance_scale=guidance_scale, negative_prompt=negative_prompt
    )
    if classic.workflow == "image":
        strength = 0.6 if family.workflows["image"].takes_strength else None
        generation = msgspec.structs.replace(generation, image=SOURCE, strength=strength)
    if classic.pipeline == "QwenImageImg2ImgPipeline":
        # it draws from what the VAE makes of the picture, the modular blocks take the mean
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, _: self.mode())
    if classic.family == "flux2":
        # it has a line break where the modular blocks have a space
        monkeypatch.setattr(pipe, "system_message", Flux2TextEncoderStep.DEFAULT_SYSTEM_MESSAGE)
    theirs = pipe(**_inputs(pipe, case, generation)).images
    ours = run_whole(case.whole, generation, source_picture(generation)).get("images")
    assert ours.shape == theirs.shape
    assert ours.std() > 0.01
    assert (ours - theirs).abs().max() <= classic.tolerance


def _inputs(pipe: Any, case: Case, generation: Generation) -> dict[str, Any]:
    """The request as the classic pipeline takes it."""
    family = case.model.family
    inputs: dict[str, Any] = {
        "prompt": generation.prompt,
        "num_inference_steps": generation.num_inference_steps,
        "generator": task_generator(generation),
        "output_type": "pt",
        **case.model.inputs,
    }
    if family == "qwen-image":
        inputs["true_cfg_scale"] = generation.guidance_scale
    elif family == "z-image":
        # there a scale counts from the picture without guidance on, so 0 is off
        inputs["guidance_scale"] = generation.guidance_scale - 1
    else:
        inputs["guidance_scale"] = generation.guidance_scale
    if generation.negative_prompt is not None:
        inputs["negative_prompt"] = generation.negative_prompt
    elif family == "qwen-image":
        inputs["negative_prompt"] = ""
    if generation.image is not None:
        inputs["image"] = source_picture(generation)
    if generation.strength is not None:
        inputs["strength"] = generation.strength
    if "height" in inspect.signature(pipe.__call__).parameters:
        inputs |= {"height": generation.height_px, "width": generation.width_px}
    return inputs
