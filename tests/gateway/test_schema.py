from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import image_generate_params

from gateway.bodies import MAX_IMAGES, MAX_SEED, REFUSED_FIELDS, REFUSED_VALUES, ImagesRequest
from gateway.errors import ApiError, InvalidRequest
from gateway.schema import least_steps, parse_images_request, resolve, warm_up_generation
from tests.gateway.conftest import MODEL
from wire.generation import Adapter, Exactness, FileFormat, Generation

ADAPTED = msgspec.structs.replace(MODEL, adapters={"ink": "/adapters/ink", "wool": "/adapters/wool"})


def resolved(**fields: Any) -> tuple[Generation, ...]:
    body = json.dumps({"prompt": "a hat", **fields}).encode()
    generations, _ = resolve(parse_images_request(body), ADAPTED, draw=random.Random(1))
    return generations


def test_defaults_come_from_the_model() -> None:
    (generation,) = resolved()
    assert (generation.width_px, generation.height_px) == (128, 128)
    assert generation.num_inference_steps == 4
    assert generation.guidance_scale == 4.0
    assert generation.negative_prompt is None
    assert generation.exactness is Exactness.NUMERIC
    assert (generation.adapter, generation.tiled_decode) == (None, False)
    assert 0 <= generation.seed < 2**32


def test_null_is_the_same_as_nothing() -> None:
    nothing = dict.fromkeys(ImagesRequest.__struct_fields__)
    del nothing["prompt"]
    assert resolved(**nothing) == resolved()


def test_all_fields() -> None:
    generations = resolved(
        model="toy",
        n=3,
        size="64x256",
        response_format="b64_json",
        seed=5,
        num_inference_steps=9,
        guidance_scale=2,
        negative_prompt="blue",
        slo_ms=1500,
    )
    assert [generation.seed for generation in generations] == [5, 6, 7]
    assert {(g.width_px, g.height_px) for g in generations} == {(64, 256)}
    assert {(g.num_inference_steps, g.guidance_scale, g.negative_prompt) for g in generations} == {
        (9, 2.0, "blue")
    }


def test_exactness_is_passed_on() -> None:
    for asked in ("bitwise", "numeric"):
        assert resolved(exactness=asked, allow_degraded=True)[0].exactness == asked


@pytest.mark.parametrize("consent", [None, False, True])
def test_approximate_is_passed_on(consent: bool | None) -> None:
    assert resolved(exactness="approximate", allow_degraded=consent)[0].exactness == "approximate"


@pytest.mark.parametrize(
    ("fields", "steps", "least"),
    [
        ({"allow_degraded": True}, 9, 5),
        ({"allow_degraded": True}, 1, 1),
        ({"allow_degraded": True, "exactness": "approximate"}, 4, 2),
        ({"exactness": "approximate"}, 4, 2),
        # what is asked for by name is kept
        ({"allow_degraded": True, "exactness": "numeric"}, 9, None),
        ({"allow_degraded": True, "exactness": "bitwise"}, 9, None),
        ({"allow_degraded": False}, 9, None),
        ({}, 9, None),
    ],
)
def test_the_fewest_steps_are_half_of_those_asked_for(
    fields: dict[str, Any], steps: int, least: int | None
) -> None:
    request = parse_images_request(json.dumps({"prompt": "a hat", **fields}).encode())
    assert least_steps(request, MODEL, steps) == least


def test_a_family_may_need_more_steps_than_half() -> None:
    request = parse_images_request(b'{"prompt": "a hat", "allow_degraded": true}')
    model = msgspec.structs.replace(MODEL, family="ltx")
    assert model.family_table.min_steps == 2
    assert least_steps(request, model, 2) == 2


@pytest.mark.parametrize("field", REFUSED_FIELDS)
@pytest.mark.parametrize("value", ["low", 1, {"model": "x"}, [], False])
def test_a_field_that_cannot_be_honoured_is_refused_with_the_reason(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(**{field: value})
    assert (refused.value.param, refused.value.code) == (field, "unsupported_parameter")
    assert REFUSED_FIELDS[field] in refused.value.message


@pytest.mark.parametrize(("field", "value"), REFUSED_VALUES)
def test_a_value_that_cannot_be_honoured_is_refused_with_the_reason(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(**{field: value})
    assert (refused.value.param, refused.value.code) == (field, "unsupported_value")
    assert REFUSED_VALUES[field, value] in refused.value.message


def test_no_field_of_openai_s_is_unknown() -> None:
    theirs = {
        *image_generate_params.ImageGenerateParamsStreaming.__annotations__,
        *image_generate_params.ImageGenerateParamsNonStreaming.__annotations__,
    }
    assert {"prompt", "stream", "moderation"} <= theirs
    assert theirs <= set(ImagesRequest.__struct_fields__)


def test_what_asks_for_nothing_is_taken() -> None:
    asks_for_nothing = {"stream": False, "partial_images": 0, "background": "auto", "safety_identifier": ""}
    assert resolved(seed=1, **asks_for_nothing) == resolved(seed=1)


def test_a_word_that_is_none_of_a_field_s_is_answered_with_those() -> None:
    with pytest.raises(InvalidRequest, match="batch, interactive, standard") as refused:
        resolved(priority="urgent")
    assert (refused.value.param, refused.value.code) == ("priority", "invalid_value")


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"n": "2"}, "invalid_type"), ({"n": 0}, "invalid_value"), ({"n": 11}, "invalid_value")],
)
def test_a_wrong_type_and_a_wrong_value_have_their_own_codes(fields: dict[str, object], code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(**fields)
    assert refused.value.code == code


def test_a_whole_number_may_be_written_with_a_point() -> None:
    body = b'{"prompt": "a hat", "n": 2.0, "seed": 1e3, "guidance_scale": 2}'
    generations, _ = resolve(parse_images_request(body), MODEL, draw=random.Random(1))
    assert [generation.seed for generation in generations] == [1000, 1001]
    with pytest.raises(InvalidRequest) as refused:
        # the nearest float is another number
        parse_images_request(b'{"prompt": "a hat", "seed": 9007199254740993.0}')
    assert refused.value.param == "seed"


@pytest.mark.parametrize(
    ("quality", "steps"), [("auto", 4), ("low", 2), ("medium", 4), ("high", 6), (None, 4)]
)
def test_quality_is_a_number_of_steps(quality: str | None, steps: int) -> None:
    assert [generation.num_inference_steps for generation in resolved(quality=quality)] == [steps]


def test_quality_stays_within_what_the_model_allows() -> None:
    few = msgspec.structs.replace(MODEL, max_steps=5)
    asked = parse_images_request(b'{"prompt": "a hat", "quality": "high"}')
    (generation,), _ = resolve(asked, few, draw=random.Random(1))
    assert generation.num_inference_steps == 5


def test_what_the_file_is_and_how_good() -> None:
    (generation,) = resolved(
        output_format="webp", output_compression=70, background="opaque", user="u", quality="auto"
    )
    assert (generation.file_format, generation.file_quality) == (FileFormat.WEBP, 70)
    (generation,) = resolved(output_format="jpeg")
    assert (generation.file_format, generation.file_quality) == (FileFormat.JPEG, 100)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quality": "low", "num_inference_steps": 3}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_format": "png", "output_compression": 100}, "output_compression"),
        ({"output_format": "jpeg", "output_compression": 101}, "output_compression"),
        ({"output_format": "gif"}, "output_format"),
    ],
)
def test_what_no_file_can_be_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(**fields)
    assert refused.value.param == named


@pytest.mark.parametrize(
    ("lora", "adapter"),
    [
        ("ink", Adapter(name="ink", source="/adapters/ink", scale=1.0)),
        ({"name": "wool"}, Adapter(name="wool", source="/adapters/wool", scale=1.0)),
        ({"name": "wool", "scale": -4}, Adapter(name="wool", source="/adapters/wool", scale=-4.0)),
        ({"name": "ink", "scale": 0.25}, Adapter(name="ink", source="/adapters/ink", scale=0.25)),
    ],
)
def test_an_adapter_by_name_or_with_its_scale(lora: object, adapter: Adapter) -> None:
    assert [generation.adapter for generation in resolved(lora=lora, n=2)] == [adapter] * 2


def test_an_unknown_adapter_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"'no_such'.*ink, wool"):
        resolved(lora="no_such")


def test_a_size_may_be_decoded_in_tiles() -> None:
    def wide(width_px: int, height_px: int) -> bool:
        return width_px > 128

    for size, tiled in (("128x256", False), ("256x128", True)):
        request = parse_images_request(json.dumps({"prompt": "a hat", "size": size, "n": 2}).encode())
        generations, _ = resolve(request, MODEL, draw=random.Random(1), tiled=wide)
        assert {generation.tiled_decode for generation in generations} == {tiled}
    assert warm_up_generation(MODEL, tiled=lambda width_px, height_px: True).tiled_decode


def test_auto_is_the_default_size() -> None:
    assert resolved(size="auto")[0].width_px == 128


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", 3),
        ("prompt", None),
        ("prompt", ""),
        ("prompt", "x" * 101),
        ("prompt", "\ud800"),
        ("model", 1),
        ("n", 0),
        ("n", 11),
        ("n", -1),
        ("n", True),
        ("n", "2"),
        ("n", 1.5),
        ("n", float("nan")),
        ("size", "big"),
        ("size", 128),
        ("size", "128"),
        ("size", "128x128x128"),
        ("size", "128X128"),
        ("size", " 128x128"),
        ("size", "130x128"),
        ("size", "48x128"),
        ("size", "128x272"),
        ("size", "0128x128"),
        ("size", "999999x128"),
        ("size", "١٢٨x128"),
        ("response_format", "png"),
        ("response_format", 1),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 2**70),
        ("seed", 1.5),
        ("seed", False),
        ("seed", "1"),
        ("num_inference_steps", 0),
        ("num_inference_steps", 51),
        ("num_inference_steps", True),
        ("guidance_scale", -0.1),
        ("guidance_scale", 20.5),
        ("guidance_scale", "4"),
        ("guidance_scale", True),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("negative_prompt", 1),
        ("negative_prompt", "x" * 101),
        ("negative_prompt", "\udfff"),
        ("slo_ms", 0),
        ("slo_ms", -5),
        ("slo_ms", True),
        ("slo_ms", "1"),
        ("slo_ms", float("-inf")),
        ("slo_ms", 1e300),
        ("exactness", "exact"),
        ("exactness", True),
        ("allow_degraded", "yes"),
        ("allow_degraded", 1),
        ("lora", "no_such"),
        ("lora", ""),
        ("lora", "\ud800"),
        ("lora", 1),
        ("lora", ["ink"]),
        ("lora", {}),
        ("lora", {"name": 1}),
        ("lora", {"name": "no_such"}),
        ("lora", {"name": "\ud800"}),
        ("lora", {"name": "ink", "scale": 4.1}),
        ("lora", {"name": "ink", "scale": -5}),
        ("lora", {"name": "ink", "scale": float("nan")}),
        ("lora", {"name": "ink", "scale": float("inf")}),
        ("lora", {"name": "ink", "scale": 10**400}),
        ("lora", {"name": "ink", "scale": "1"}),
        ("lora", {"name": "ink", "scale": True}),
        ("lora", {"name": "ink", "weight": 1.0}),
        ("quality", "hd"),
        ("quality", 1),
        ("output_format", "gif"),
        ("output_compression", 50),
        ("background", "transparent"),
        ("background", "blue"),
        ("user", 3),
        ("user", "\ud800"),
        ("stream", True),
        ("stream", 0),
        ("partial_images", 1),
        ("partial_images", 4),
        ("priority", "urgent"),
        ("priority", 1),
        ("drop_if_late", 1),
        ("drop_if_late", "yes"),
        ("user", "x" * 513),
        ("safety_identifier", 1),
        ("size", "128x128\n"),
        ("a`b", 1),
    ],
)
def test_each_bad_field_names_itself(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(**{field: value})
    assert refused.value.param == field
    assert refused.value.http_status == 400


def test_a_number_too_large_for_a_float_names_its_field() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_images_request(b'{"prompt": "x", "guidance_scale": 1e999}')
    assert refused.value.param == "guidance_scale"


def test_a_missing_prompt_names_itself() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_images_request(b"{}")
    assert (refused.value.param, refused.value.code) == ("prompt", "missing_required_parameter")


def test_an_unknown_field_has_its_own_code() -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(steps=5)
    assert (refused.value.param, refused.value.code) == ("steps", "unknown_parameter")


def test_the_last_seed_must_fit_too() -> None:
    assert resolved(seed=MAX_SEED, n=MAX_IMAGES)[-1].seed == 2**63 - 1
    with pytest.raises(InvalidRequest) as refused:
        resolved(seed=MAX_SEED + 1)
    assert refused.value.param == "seed"


def test_a_negative_prompt_without_guidance_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolved(negative_prompt="blue", guidance_scale=1.0)
    assert refused.value.param == "negative_prompt"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"prompt"',
        b"null",
        b"\xff\xfe",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "\\ud800": 1}',
        b"[" * 10**5,
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_images_request(body)
    assert (refused.value.code, refused.value.param) == ("invalid_json", None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("a1x☃\ud800", max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=3,
)
names = st.sampled_from(
    ["prompt", "n", "size", "seed", "num_inference_steps", "guidance_scale", "negative_prompt", "slo_ms", "x"]
) | st.sampled_from(["exactness", "allow_degraded", "lora"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fields=st.dictionaries(names, json_values, max_size=4))
def test_any_fields_give_jobs_or_a_named_refusal(fields: dict[str, Any]) -> None:
    try:
        generations = resolved(**fields)
    except ApiError as error:
        named, generations = error.param, ()
    else:
        named = None
    assert (named in fields) == (not generations)
    assert all(64 <= g.width_px <= 256 and 1 <= g.num_inference_steps <= 50 for g in generations)


def test_a_warm_up_is_small_and_of_the_default_size() -> None:
    generation = warm_up_generation(MODEL)
    assert (generation.width_px, generation.height_px) == (128, 128)
    assert generation.num_inference_steps == 2
