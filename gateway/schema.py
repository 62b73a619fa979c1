"""The body of `POST /v1/images/generations`: from bytes to jobs' parameters, or one error that names a field.

Nothing is clamped or dropped in silence. Bounds come from the catalogue's entry of the model.
"""

from __future__ import annotations

import functools
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from gateway.bodies import REFUSED_FIELDS, REFUSED_VALUES, ImagesRequest, LoraRequest
from gateway.errors import InvalidRequest
from pipelines.catalogue import Model
from pipelines.errors import FieldRefused
from pipelines.families import check_fields
from wire.generation import Adapter, Exactness, FileFormat, Generation

RANDOM_SEED_BITS = 32

# of the model's own steps; "auto" and "medium" are those
_STEPS_BY_QUALITY = {"low": 0.5, "medium": 1.0, "high": 1.5}

_Number = TypeVar("_Number", int, float)

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_AT = re.compile(r" - at `\$\.?([^`]*)`$")


def parse_images_request(body: bytes) -> ImagesRequest:
    """Raises `InvalidRequest`."""
    try:
        # the stdlib's parser lets NaN and 1e999 through, so that the field can be named below
        read = json.loads(body, object_pairs_hook=_no_repeats, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(read, dict):
        raise InvalidRequest("the body is not a JSON object", code="invalid_json")
    for name, value in read.items():
        if name not in ImagesRequest.__struct_fields__:
            raise InvalidRequest(f"unknown field {name!r}", param=name, code="unknown_parameter")
        _check_value(name, value)
    if "prompt" not in read:
        raise InvalidRequest("prompt is missing", param="prompt", code="missing_required_parameter")
    try:
        return msgspec.convert(read, type=ImagesRequest)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None


def never_tiled(width_px: int, height_px: int) -> bool:
    """Of a gateway without a bound on the memory of a decode."""
    return False


def resolve(
    request: ImagesRequest,
    model: Model,
    *,
    draw: random.Random,
    tiled: Callable[[int, int], bool] = never_tiled,
) -> tuple[tuple[Generation, ...], tuple[int, int]]:
    """One `Generation` per picture, seeds counting up from the first, and the size in pixels.

    `model` is the one that it names; `tiled` tells of a size in pixels whether it is decoded in tiles. Raises
    `InvalidRequest`; nothing was begun then.
    """
    _check_text("prompt", request.prompt, model.max_prompt_chars)
    if request.negative_prompt is not None:
        _check_text("negative_prompt", request.negative_prompt, model.max_prompt_chars)
    width_px, height_px = _size(request.size, model)
    steps = _steps(request, model)
    guidance = _bounded(
        "guidance_scale",
        request.guidance_scale,
        default=model.default_guidance,
        low=0.0,
        high=model.max_guidance,
    )
    file_format, file_quality = _file(request, model)
    adapter = _adapter(request.lora, model)
    try:
        check_fields(
            model.family_table,
            guidance_scale=guidance,
            negative_prompt=request.negative_prompt,
            num_inference_steps=steps,
            lora=adapter.name if adapter else None,
        )
    except FieldRefused as error:
        raise InvalidRequest(str(error), param=error.field) from None
    seed = request.seed if request.seed is not None else draw.getrandbits(RANDOM_SEED_BITS)
    generations = tuple(
        Generation(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width_px=width_px,
            height_px=height_px,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=seed + i,
            num_frames=model.default_frames,
            adapter=adapter,
            tiled_decode=tiled(width_px, height_px),
            exactness=Exactness(request.exactness or Exactness.NUMERIC),
            file_format=file_format,
            file_quality=file_quality,
        )
        for i in range(request.n or 1)
    )
    return generations, (width_px, height_px)


def least_steps(request: ImagesRequest, model: Model, steps: int) -> int | None:
    """The fewest of its `steps` that a request agrees to: half of them, and what its family needs at least.

    None if it does not agree to fewer: `approximate` does, and `allow_degraded` where no exactness is named.
    """
    if (request.exactness or ("approximate" if request.allow_degraded else "numeric")) != "approximate":
        return None
    return min(steps, max(model.family_table.min_steps, math.ceil(steps / 2)))


def warm_up_generation(model: Model, *, tiled: Callable[[int, int], bool] = never_tiled) -> Generation:
    """The smallest run that touches everything a first request would: default size, two steps."""
    width_px, height_px = model.default_size_px
    return Generation(
        prompt="warm-up",
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=min(2, model.max_steps),
        guidance_scale=model.default_guidance,
        seed=0,
        num_frames=model.default_frames,
        tiled_decode=tiled(width_px, height_px),
    )


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a field is there twice")
    if not all(map(_is_unicode, read)):
        raise ValueError("a field's name is not valid Unicode text")
    return read


def _number(text: str) -> float | int:
    """To JSON 2.0 is as whole as 2. From 2^53 on a float may not be the number that was written."""
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _named(message: str) -> InvalidRequest:
    """msgspec's message says where; OpenAI's shape wants it apart."""
    at = _AT.search(message)
    if at is None:
        return InvalidRequest(message)
    name, text = at.group(1).partition(".")[0], message[: at.start()]
    if text.startswith("Invalid enum value"):
        text += f"; it may be {_allowed(name)}"
    code = "invalid_type" if ", got `" in text else "invalid_value"
    return InvalidRequest(f"{name}: {text}", param=name, code=code)


@functools.cache
def _published() -> dict[str, Any]:
    """The properties of the request as JSON Schema."""
    _, components = msgspec.json.schema_components([ImagesRequest])
    properties: dict[str, Any] = components["ImagesRequest"]["properties"]
    return properties


def _allowed(name: str) -> str:
    """The words that a field may be."""
    return ", ".join(word for kind in _published()[name]["anyOf"] for word in kind.get("enum", ()))


def _check_text(name: str, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise InvalidRequest(f"{name} has {len(text)} characters, the bound is {max_chars}", param=name)


def _check_value(name: str, value: Any) -> None:
    """What JSON can spell and no type here says: reasons of ours, and numbers and texts that are none."""
    if value is not None and (reason := REFUSED_FIELDS.get(name)):
        raise InvalidRequest(f"{name} is not supported: {reason}", param=name, code="unsupported_parameter")
    match value:
        case str() | int():
            if reason := REFUSED_VALUES.get((name, value)):
                text = f"{name} {json.dumps(value)} is not supported: {reason}"
                raise InvalidRequest(text, param=name, code="unsupported_value")
            if isinstance(value, str) and not _is_unicode(value):
                raise InvalidRequest(f"{name} is not valid Unicode text", param=name)
        case float() if not math.isfinite(value):
            raise InvalidRequest(f"{name} is not a finite number", param=name)
        case dict():
            for within in value.values():
                _check_value(name, within)


def _is_unicode(text: str) -> bool:
    """JSON can spell half of a surrogate pair, which nothing after us can encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounded(name: str, value: _Number | None, *, default: _Number, low: _Number, high: _Number) -> _Number:
    if value is None:
        return default
    if not low <= value <= high:
        raise InvalidRequest(f"{name} is {value}, it must be between {low} and {high}", param=name)
    return value


def _steps(request: ImagesRequest, model: Model) -> int:
    if request.quality in _STEPS_BY_QUALITY and request.num_inference_steps is not None:
        raise InvalidRequest("quality sets the steps, and so does num_inference_steps", param="quality")
    factor = _STEPS_BY_QUALITY.get(request.quality or "auto", 1.0)
    default = min(model.max_steps, max(model.family_table.min_steps, math.ceil(factor * model.default_steps)))
    return _bounded(
        "num_inference_steps", request.num_inference_steps, default=default, low=1, high=model.max_steps
    )


def _file(request: ImagesRequest, model: Model) -> tuple[FileFormat, int]:
    """What the file is, and its quality of 0 to 100."""
    file_format = FileFormat(request.output_format or FileFormat.PNG)
    if file_format is FileFormat.JPEG and model.family_table.output == "videos":
        raise InvalidRequest("output_format is jpeg, which no clip can be", param="output_format")
    if request.output_compression is None:
        return file_format, 100
    if file_format is FileFormat.PNG:
        raise InvalidRequest(
            "output_compression has no effect on a png, which loses nothing", param="output_compression"
        )
    return file_format, request.output_compression


def _adapter(lora: str | LoraRequest | None, model: Model) -> Adapter | None:
    if lora is None:
        return None
    asked = LoraRequest(name=lora) if isinstance(lora, str) else lora
    if asked.name not in model.adapters:
        known = ", ".join(sorted(model.adapters)) or "none"
        raise InvalidRequest(f"lora is {asked.name!r}; this model's adapters: {known}", param="lora")
    return Adapter(name=asked.name, source=model.adapters[asked.name], scale=asked.scale)


def _size(size: str | None, model: Model) -> tuple[int, int]:
    if size is None or size == "auto":
        return model.default_size_px
    match = _SIZE.fullmatch(size)
    if match is None:
        # the published pattern also matches in front of a line's end
        raise InvalidRequest(f'size is {size!r}, it must be "auto" or like "512x512"', param="size")
    width_px, height_px = int(match.group(1)), int(match.group(2))
    for side_px in (width_px, height_px):
        if not model.min_size_px <= side_px <= model.max_size_px or side_px % model.size_multiple_px:
            raise InvalidRequest(
                f"size is {size}, each side must be between {model.min_size_px} and {model.max_size_px}"
                f" and a multiple of {model.size_multiple_px}",
                param="size",
            )
    return width_px, height_px
