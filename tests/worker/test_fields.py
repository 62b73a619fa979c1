"""Every field of a request that a family accepts changes its picture; the others are refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipelines.errors import FieldRefused
from pipelines.families import check_fields
from tests.families.cases import SOURCE, Case, equal, made_whole, source_picture
from tests.families.tiny import TINY
from wire.generation import Generation
from worker.task_pipeline import run_whole

each_family = pytest.mark.parametrize("case", list(TINY), indirect=True)

CHANGES: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a dog"},
    "negative_prompt": {"negative_prompt": "a dog"},
    "guidance_scale": {"guidance_scale": 2.0},
    "seed": {"seed": 12},
    "num_inference_steps": {"num_inference_steps": 3},
    "strength": {"strength": 0.3},
}


def refused_field(case: Case, generation: Generation) -> str | None:
    try:
        check_fields(
            case.model.family_table,
            guidance_scale=generation.guidance_scale,
            negative_prompt=generation.negative_prompt,
            workflow=generation.workflow,
            strength=generation.strength,
            num_inference_steps=generation.num_inference_steps,
        )
    except FieldRefused as error:
        return error.field
    return None


def starting_points(case: Case) -> list[Generation]:
    """The default request from text, and from a picture where the family has that."""
    text = msgspec.structs.replace(case.generation, guidance_scale=case.model.default_guidance)
    workflow = case.model.family_table.workflows.get("image")
    if workflow is None:
        return [text]
    strength = 0.6 if workflow.takes_strength else None
    return [text, msgspec.structs.replace(text, image=SOURCE, strength=strength)]


@each_family
@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_field_has_an_effect_or_is_refused(case: Case, field: str) -> None:
    for generation in starting_points(case):
        assert refused_field(case, generation) is None
        changed = msgspec.structs.replace(generation, **CHANGES[field])
        if refused_field(case, changed) is None:
            assert not equal(made_whole(case, changed), made_whole(case, generation))
        else:
            assert refused_field(case, changed) == field
            assert (case.model.family, generation.workflow, field) in WITHOUT_EFFECT


WITHOUT_EFFECT = {
    *((family, "text", "strength") for family in TINY),
    *((f"flux2{variant}", "image", "strength") for variant in ("", "-klein", "-klein-base")),
    *((family, "image", "strength") for family in ("hunyuan-video-1.5", "ltx")),
    *(
        (family, workflow, "negative_prompt")
        for family in ("flux", "flux-schnell", "flux2", "flux2-klein", "flux2-klein-base")
        for workflow in ("text", "image")
    ),
    *(
        (family, workflow, "guidance_scale")
        for family in ("flux-schnell", "flux2-klein")
        for workflow in ("text", "image")
    ),
}


@each_family
def test_sizes_are_what_was_asked(case: Case) -> None:
    for generation in starting_points(case):
        step_px = case.model.size_multiple_px
        wide = msgspec.structs.replace(generation, width_px=generation.width_px + step_px)
        tall = msgspec.structs.replace(generation, height_px=generation.height_px + step_px)
        for changed in (wide, tall):
            state = run_whole(case.whole, changed, source_picture(changed))
            shape = state.get(case.model.family_table.output).shape
            assert tuple(shape[-2:]) == (changed.height_px, changed.width_px)


@each_family
def test_guidance_off_and_on(case: Case) -> None:
    """Off is a scale of 1 with a guider, and then there is no negative prompt; below 1 is refused."""
    family = case.model.family_table
    text = starting_points(case)[0]
    if family.guidance != "guider":
        assert (
            refused_field(case, msgspec.structs.replace(text, negative_prompt="a dog")) == "negative_prompt"
        )
        return
    off = msgspec.structs.replace(text, guidance_scale=1.0)
    assert refused_field(case, off) is None
    assert not equal(made_whole(case, off), made_whole(case, text))
    assert refused_field(case, msgspec.structs.replace(off, negative_prompt="a dog")) == "negative_prompt"
    assert refused_field(case, msgspec.structs.replace(text, guidance_scale=0.0)) == "guidance_scale"


@each_family
def test_a_picture_or_a_strength_where_there_is_none(case: Case) -> None:
    family = case.model.family_table
    text = starting_points(case)[0]
    started = msgspec.structs.replace(text, image=SOURCE)
    assert refused_field(case, started) == (None if "image" in family.workflows else "image")
    if "image" in family.workflows and family.workflows["image"].takes_strength:
        weak = msgspec.structs.replace(started, strength=0.2)
        assert weak.num_inference_steps == 4
        assert refused_field(case, weak) == "strength"
