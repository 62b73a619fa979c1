"""The bodies of `POST /v1/images/generations` and of errors, as types: what validates is what is published.

A field that is refused whatever it says is there too, as null alone: its description is the reason.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from planner.types import Priority
from wire.generation import Exactness, FileFormat

MAX_IMAGES = 10
MAX_SEED = 2**63 - MAX_IMAGES
"""The first of a request's seeds; the last then still fits into 64 bits."""
MAX_SLO_MS = 24 * 3600 * 1000.0
MAX_LORA_SCALE = 4.0
SIZE_PATTERN = "^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"

REFUSED_FIELDS: dict[str, str] = {
    "moderation": "no moderation is run here, neither strict nor low",
    "style": "models here know no styles by name; describe it in the prompt",
    "complexity": "nothing here plans a picture before it is made",
    "frame_count": "it is of a gif, which nothing here writes",
    "frame_duration_ms": "it is of a gif, which nothing here writes",
    "svg": "nothing here writes an svg",
}
"""Fields of OpenAI's that this server cannot honour whatever they say, and why."""

REFUSED_VALUES: dict[tuple[str, object], str] = {
    ("background", "transparent"): "pictures here are opaque",
    ("output_format", "gif"): "files here are png, jpeg or webp",
    ("output_format", "svg"): "files here are png, jpeg or webp",
    ("partial_images", 1): "nothing is streamed here",
    ("partial_images", 2): "nothing is streamed here",
    ("partial_images", 3): "nothing is streamed here",
    ("quality", "hd"): "high is half as many steps again as the model's own",
    ("quality", "max"): "high is the most here; num_inference_steps may ask for more",
    ("quality", "standard"): "medium is the model's own number of steps",
    ("quality", "xhigh"): "high is the most here; num_inference_steps may ask for more",
    ("stream", True): "nothing is streamed here",
}
"""Values that this server cannot honour, and why."""

_Client = Annotated[str, Meta(max_length=512)]


class LoraRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An adapter of the model, and how strongly it acts; negative: the other way."""

    name: str
    scale: Annotated[float, Meta(ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE)] = 1.0


class ImagesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pictures are wanted. null is the same as leaving a field out."""

    prompt: Annotated[
        str, Meta(min_length=1, description="What to show; the model bounds how many characters.")
    ]
    model: Annotated[str | None, Meta(description="A served model; the first one if left out.")] = None
    n: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_IMAGES)] | None,
        Meta(description="How many pictures, with consecutive seeds; 1 if left out."),
    ] = None
    size: Annotated[
        Annotated[str, Meta(pattern=SIZE_PATTERN)] | None,
        Meta(
            description='"auto", the model\'s own size, or "WxH" in pixels, both within the model\'s bounds'
            " and multiples of its step."
        ),
    ] = None
    response_format: Annotated[
        Literal["b64_json", "url"] | None,
        Meta(description="The files in the reply, or URLs of them that expire; b64_json if left out."),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_SEED)] | None,
        Meta(description="Of the first picture; random if left out."),
    ] = None
    num_inference_steps: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Steps of the denoise loop, up to the model's max_steps; the model's own if left out."
        ),
    ] = None
    guidance_scale: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Up to the model's max_guidance; the model's own if left out."),
    ] = None
    negative_prompt: Annotated[
        str | None, Meta(description="What not to show. Refused where it has no effect.")
    ] = None
    slo_ms: Annotated[
        Annotated[float, Meta(ge=1, le=MAX_SLO_MS)] | None,
        Meta(description="The deadline, in milliseconds from arrival; by cost and priority if left out."),
    ] = None
    priority: Annotated[
        Priority | None,
        Meta(
            description="How soon it is due without slo_ms: 1.5, 2.5 (standard, if left out) or 20 times what"
            " it takes alone; and which of two with one deadline goes first."
        ),
    ] = None
    drop_if_late: Annotated[
        bool | None,
        Meta(description="End it at its deadline, with 504, rather than finish it late; false if left out."),
    ] = None
    exactness: Annotated[
        Literal["bitwise", "numeric", "approximate"] | None,
        Meta(
            description="What is promised of the pixels; numeric if left out. approximate: consent as"
            " allow_degraded is."
        ),
    ] = None
    allow_degraded: Annotated[
        bool | None,
        Meta(
            description="Consent to fewer steps, half of them at least, where all of them would be too late."
            " Without effect beside bitwise or numeric."
        ),
    ] = None
    lora: Annotated[
        str | LoraRequest | None,
        Meta(description="One of the model's adapters, by name, or with its scale; none if left out."),
    ] = None
    quality: Annotated[
        Literal["auto", "low", "medium", "high"] | None,
        Meta(
            description="Half the model's steps, its own (medium, auto) or half as many again. low, medium"
            " and high are refused beside num_inference_steps."
        ),
    ] = None
    output_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        Meta(description="What the files are; png if left out. A clip cannot be a jpeg."),
    ] = None
    output_compression: Annotated[
        Annotated[int, Meta(ge=0, le=100)] | None,
        Meta(
            description="Quality of a jpeg or webp; 100 if left out. Refused for a png, which loses nothing."
        ),
    ] = None
    background: Annotated[Literal["auto", "opaque"] | None, Meta(description="Always opaque.")] = None
    user: Annotated[
        _Client | None, Meta(description="Whom it is for, in the client's words. Told in the log.")
    ] = None
    safety_identifier: Annotated[
        _Client | None, Meta(description="As user, before which it goes unless it is empty.")
    ] = None
    stream: Annotated[
        Annotated[bool, Meta(extra_json_schema={"enum": [False]})] | None,
        Meta(description="Nothing is streamed here."),
    ] = None
    partial_images: Annotated[
        Annotated[int, Meta(ge=0, le=0)] | None,
        Meta(description="Nothing is streamed here."),
    ] = None
    moderation: Annotated[None, Meta(description=REFUSED_FIELDS["moderation"])] = None
    style: Annotated[None, Meta(description=REFUSED_FIELDS["style"])] = None
    complexity: Annotated[None, Meta(description=REFUSED_FIELDS["complexity"])] = None
    frame_count: Annotated[None, Meta(description=REFUSED_FIELDS["frame_count"])] = None
    frame_duration_ms: Annotated[None, Meta(description=REFUSED_FIELDS["frame_duration_ms"])] = None
    svg: Annotated[None, Meta(description=REFUSED_FIELDS["svg"])] = None


class ImageItem(msgspec.Struct, frozen=True, kw_only=True):
    """One picture: the file itself, or where it is until `expires_at`, in seconds since 1970.

    `num_inference_steps` is there if it was made with fewer than were asked for.
    """

    seed: int
    num_inference_steps: int | UnsetType = UNSET
    b64_json: bytes | UnsetType = UNSET
    url: str | UnsetType = UNSET
    expires_at: int | UnsetType = UNSET


class ImagesReply(msgspec.Struct, frozen=True, kw_only=True):
    """The pictures, in order of their seeds.

    `quality` is left out where num_inference_steps took its place, or where fewer steps were made.
    `exactness` is what was kept, of the weakest picture.
    """

    created: int
    data: tuple[ImageItem, ...]
    size: str
    quality: Literal["low", "medium", "high"] | UnsetType = UNSET
    output_format: FileFormat
    background: Literal["opaque"] = "opaque"
    exactness: Exactness


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """`param` names the field at fault, if one is. `code` is for programs, `message` for people."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """Every error has this shape."""

    error: ErrorDetail
