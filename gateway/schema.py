"""The body of `POST /v1/images/generations`: from bytes to jobs' parameters, or one error that names a field.

Nothing is clamped or dropped in silence. Bounds come from the catalogue's entry of the model.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from gateway.errors import InvalidRequest, ModelNotFound
from pipelines.catalogue import Model
from pipelines.errors import FieldRefused
from pipelines.families import check_fields
from wire.generation import Adapter, Exactness, FileFormat, Generation

MAX_IMAGES = 10
MAX_SEED = 2**63 - 1
MAX_SLO_MS = 24 * 3600 * 1000.0
MAX_LORA_SCALE = 4.0
RANDOM_SEED_BITS = 32

# of the model's own steps; "auto" and "medium" are those
_STEPS_BY_QUALITY = {"low": 0.5, "medium": 1.0, "high": 1.5}

_Number = TypeVar("_Number", int, float)

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_AT = re.compile(r" - at `\$\.?([^`]*)`$")


class LoraRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter of the model, and how strongly it acts; negative: the other way."""

    name: str
    scale: float = 1.0


class ImagesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields as sent; None is the same as leaving a field out. `slo_ms`: milliseconds from arrival.

    `lora`: an adapter, or its name alone. `allow_degraded`: consent to `exactness` "approximate".
    `output_compression`: quality of a jpeg or webp file, 0 to 100. `quality`: how many steps, in words.
    `user` is the client's own note, which nothing here reads.
    """

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    response_format: Literal["b64_json"] | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    slo_ms: float | None = None
    priority: Literal["interactive", "standard", "batch"] | None = None
    drop_if_late: bool | None = None
    exactness: Literal["bitwise", "numeric", "approximate"] | None = None
    allow_degraded: bool | None = None
    lora: str | LoraRequest | None = None
    quality: Literal["auto", "low", "medium", "high"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    user: str | None = None


def parse_images_request(body: bytes) -> ImagesRequest:
    """Raises `InvalidRequest`."""
    try:
        # the stdlib's parser lets NaN and 1e999 through, so that the field can be named below
        read = json.loads(body, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(read, dict):
        raise InvalidRequest("the body is not a JSON object", code="invalid_json")
    for name, value in read.items():
        if name not in ImagesRequest.__struct_fields__:
            raise InvalidRequest(f"unknown field {name!r}", param=name, code="unknown_parameter")
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"{name} is not a finite number", param=name)
        if isinstance(value, str):
            _check_unicode(name, value)
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
    name: str,
    model: Model,
    *,
    draw: random.Random,
    tiled: Callable[[int, int], bool] = never_tiled,
) -> tuple[tuple[Generation, ...], tuple[int, int]]:
    """One `Generation` per picture, seeds counting up from the first, and the size in pixels.

    `name` is the served model, `tiled` tells of a size in pixels whether it is decoded in tiles. Raises
    `InvalidRequest` or `ModelNotFound`; nothing was begun then.
    """
    if request.model is not None and request.model != name:
        raise ModelNotFound(
            f"the model {request.model!r} is not served here; this is {name!r}", param="model"
        )
    _check_text("prompt", request.prompt, model.max_prompt_chars)
    if not request.prompt:
        raise InvalidRequest("prompt is empty", param="prompt")
    if request.negative_prompt is not None:
        _check_text("negative_prompt", request.negative_prompt, model.max_prompt_chars)
    n = _bounded("n", request.n, default=1, low=1, high=MAX_IMAGES)
    width_px, height_px = _size(request.size, model)
    steps = _steps(request, model)
    guidance = _bounded(
        "guidance_scale",
        request.guidance_scale,
        default=model.default_guidance,
        low=0.0,
        high=model.max_guidance,
    )
    if request.slo_ms is not None:
        _bounded("slo_ms", request.slo_ms, default=0.0, low=1.0, high=MAX_SLO_MS)
    exactness = _exactness(request)
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
    _bounded("seed", seed, default=0, low=0, high=MAX_SEED - (n - 1))
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
            exactness=exactness,
            file_format=file_format,
            file_quality=file_quality,
        )
        for i in range(n)
    )
    return generations, (width_px, height_px)


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
    return read


def _named(message: str) -> InvalidRequest:
    """msgspec's message says where; OpenAI's shape wants it apart."""
    if at := _AT.search(message):
        name = at.group(1).partition(".")[0]
        return InvalidRequest(f"{name}: {message[: at.start()]}", param=name, code="invalid_type")
    return InvalidRequest(message)


def _check_text(name: str, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise InvalidRequest(f"{name} has {len(text)} characters, the bound is {max_chars}", param=name)


def _check_unicode(name: str, text: str) -> None:
    """JSON can spell half of a surrogate pair, which nothing after us can encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} is not valid Unicode text", param=name) from None


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
    if request.background == "transparent":
        raise InvalidRequest("background is transparent, pictures here are opaque", param="background")
    file_format = FileFormat(request.output_format or FileFormat.PNG)
    if file_format is FileFormat.JPEG and model.family_table.output == "videos":
        raise InvalidRequest("output_format is jpeg, which no clip can be", param="output_format")
    if request.output_compression is None:
        return file_format, 100
    if file_format is FileFormat.PNG:
        raise InvalidRequest(
            "output_compression has no effect on a png, which loses nothing", param="output_compression"
        )
    quality = _bounded("output_compression", request.output_compression, default=100, low=0, high=100)
    return file_format, quality


def _exactness(request: ImagesRequest) -> Exactness:
    asked = Exactness(request.exactness or Exactness.NUMERIC)
    if asked is not Exactness.APPROXIMATE:
        return asked
    if not request.allow_degraded:
        text = "exactness is approximate, which needs allow_degraded to be true"
    else:
        text = "exactness is approximate, but nothing here makes approximate pictures; leave it out"
    raise InvalidRequest(text, param="exactness")


def _adapter(lora: str | LoraRequest | None, model: Model) -> Adapter | None:
    if lora is None:
        return None
    asked = LoraRequest(name=lora) if isinstance(lora, str) else lora
    if asked.name not in model.adapters:
        known = ", ".join(sorted(model.adapters)) or "none"
        raise InvalidRequest(f"lora is {asked.name!r}; this model's adapters: {known}", param="lora")
    if not -MAX_LORA_SCALE <= asked.scale <= MAX_LORA_SCALE:
        bounds = f"between {-MAX_LORA_SCALE} and {MAX_LORA_SCALE}"
        raise InvalidRequest(f"lora.scale is {asked.scale}, it must be {bounds}", param="lora")
    return Adapter(name=asked.name, source=model.adapters[asked.name], scale=asked.scale)


def _size(size: str | None, model: Model) -> tuple[int, int]:
    if size is None or size == "auto":
        return model.default_size_px
    match = _SIZE.fullmatch(size)
    if match is None:
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
