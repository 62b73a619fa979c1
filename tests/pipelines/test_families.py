"""How request fields reach each family's pipeline."""

from __future__ import annotations

import msgspec
import pytest

from pipelines.catalogue import load_catalogue
from pipelines.errors import FieldRefused
from pipelines.families import FAMILIES, check_fields, is_guided, pipeline_inputs
from wire.generation import Generation

GENERATION = Generation(
    prompt="a cat", width_px=64, height_px=32, num_inference_steps=5, guidance_scale=4.0, seed=1, num_frames=9
)


def test_sd3_passes_the_empty_negative_prompt_when_guided() -> None:
    inputs = pipeline_inputs(FAMILIES["sd3"], GENERATION, {"max_sequence_length": 0})
    assert inputs == {
        "prompt": "a cat",
        "negative_prompt": "",
        "height": 32,
        "width": 64,
        "num_inference_steps": 5,
        "output_type": "pt",
        "max_sequence_length": 0,
    }


def test_sd3_unguided_has_no_negative_prompt() -> None:
    unguided = msgspec.structs.replace(GENERATION, guidance_scale=1.0)
    assert "negative_prompt" not in pipeline_inputs(FAMILIES["sd3"], unguided, {})
    assert not is_guided(FAMILIES["sd3"], 1.0)


def test_sdxl_has_its_own_for_no_negative_prompt() -> None:
    assert pipeline_inputs(FAMILIES["sdxl"], GENERATION, {})["negative_prompt"] is None
    empty = msgspec.structs.replace(GENERATION, negative_prompt="")
    assert pipeline_inputs(FAMILIES["sdxl"], empty, {})["negative_prompt"] == ""


def test_flux_takes_guidance_as_an_input() -> None:
    inputs = pipeline_inputs(FAMILIES["flux"], GENERATION, {})
    assert inputs["guidance_scale"] == 4.0
    assert "negative_prompt" not in inputs
    assert not is_guided(FAMILIES["flux"], 4.0)


def test_wan_takes_frames() -> None:
    assert pipeline_inputs(FAMILIES["wan"], GENERATION, {})["num_frames"] == 9


@pytest.mark.parametrize(
    ("family", "guidance_scale", "negative_prompt", "field"),
    [
        ("flux", 4.0, "blurry", "negative_prompt"),
        ("sd3", 1.0, "blurry", "negative_prompt"),
        ("sd3", 0.5, None, "guidance_scale"),
        ("wan", 0.5, None, "guidance_scale"),
    ],
)
def test_fields_without_effect_are_refused(
    family: str, guidance_scale: float, negative_prompt: str | None, field: str
) -> None:
    with pytest.raises(FieldRefused) as refused:
        check_fields(FAMILIES[family], guidance_scale=guidance_scale, negative_prompt=negative_prompt)
    assert refused.value.field == field


@pytest.mark.parametrize("family", ["sd3", "wan"])
def test_fields_with_effect_are_accepted(family: str) -> None:
    check_fields(FAMILIES[family], guidance_scale=4.0, negative_prompt="blurry")


@pytest.mark.parametrize(("family", "num_frames"), [("wan", 6), ("ltx", 5), ("wan", 0), ("sd3", 1)])
def test_frames_that_would_be_another_number_are_refused(family: str, num_frames: int) -> None:
    with pytest.raises(FieldRefused) as refused:
        check_fields(FAMILIES[family], guidance_scale=4.0, negative_prompt=None, num_frames=num_frames)
    assert refused.value.field == "num_frames"


def test_a_model_may_have_fewer_workflows_than_its_family() -> None:
    model = load_catalogue()["hunyuanvideo-1.5-480p"]
    with pytest.raises(FieldRefused) as refused:
        check_fields(model.family_table, guidance_scale=4.0, negative_prompt=None, workflow="image")
    assert refused.value.field == "image"


def test_a_scheduler_that_cannot_do_one_step_refuses_it() -> None:
    with pytest.raises(FieldRefused) as refused:
        check_fields(FAMILIES["ltx"], guidance_scale=4.0, negative_prompt=None, num_inference_steps=1)
    assert refused.value.field == "num_inference_steps"
