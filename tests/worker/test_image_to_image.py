"""From a picture: split equals whole, paused equals whole, and both the picture and the strength matter."""

from __future__ import annotations

import msgspec
import pytest

from pipelines.errors import FieldRefused
from pipelines.families import check_fields
from tests.families.cases import FROM_PICTURE, SOURCE, Case, equal, made_split, made_whole
from wire.generation import Generation

each_family = pytest.mark.parametrize("case", FROM_PICTURE, indirect=True)


@pytest.fixture
def started(case: Case) -> Generation:
    """The case's generation, from a picture."""
    strength = 0.6 if case.model.family_table.workflows["image"].takes_strength else None
    return msgspec.structs.replace(case.generation, image=SOURCE, strength=strength)


@each_family
@pytest.mark.parametrize("pause_at", [(), (0,), (1,), (1, 2)])
def test_split_and_paused_equal_whole(case: Case, started: Generation, pause_at: tuple[int, ...]) -> None:
    latents, raw = made_whole(case, started)
    for tensor in (latents, *raw):
        assert tensor.isfinite().all()
        assert tensor.std() > 0.01
    assert equal(made_split(case, started, pause_at=pause_at), (latents, raw))


@each_family
def test_the_picture_and_the_seed_matter(case: Case, started: Generation) -> None:
    expected = made_whole(case, started)
    other = msgspec.structs.replace(started, image=msgspec.structs.replace(SOURCE, name="another"))
    assert not equal(made_whole(case, other), expected)
    assert not equal(made_whole(case, msgspec.structs.replace(started, seed=12)), expected)
    text = msgspec.structs.replace(started, image=None, strength=None)
    assert not equal(made_whole(case, text), expected)


@each_family
def test_strength_matters_or_is_refused(case: Case, started: Generation) -> None:
    family = case.model.family_table

    def check() -> None:
        check_fields(
            family,
            guidance_scale=case.model.default_guidance,
            negative_prompt=None,
            workflow="image",
            strength=0.3,
            num_inference_steps=4,
        )

    if family.workflows["image"].takes_strength:
        check()
        weaker = msgspec.structs.replace(started, strength=0.3)
        assert not equal(made_whole(case, weaker), made_whole(case, started))
    else:
        with pytest.raises(FieldRefused) as refused:
            check()
        assert refused.value.field == "strength"


@each_family
def test_a_lost_field_is_noticed(case: Case, started: Generation) -> None:
    """The latents of the picture, dropped on the way, give another picture or none."""
    expected = made_whole(case, started)
    try:
        broken = made_split(case, started, drop="image_latents")
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return  # a block refused to run without its input
    assert not equal(broken, expected)
