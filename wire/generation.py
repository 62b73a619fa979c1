"""What one picture (or clip) is to be: the request's fields after validation, before any family's mapping."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from wire.handle import Handle


class Exactness(enum.StrEnum):
    """What is promised of the pixels, against the whole pipeline run alone on the same kind of device.

    BITWISE: the same pixels; never batched. NUMERIC: within a stated tolerance. APPROXIMATE: a cheaper
    picture of the same request.
    """

    BITWISE = "bitwise"
    NUMERIC = "numeric"
    APPROXIMATE = "approximate"


_FROM_STRONGEST = tuple(Exactness)


def weakest(kept: Iterable[Exactness]) -> Exactness:
    """The least that all of `kept` have in common."""
    return max(kept, key=_FROM_STRONGEST.index)


def allows(asked: Exactness, kept: Exactness) -> bool:
    """Whether `kept` is as much as was `asked`."""
    return weakest((asked, kept)) is asked


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter of the denoiser. `source`: a safetensors file, or a folder that holds one."""

    name: str
    source: str
    scale: float = 1.0


class FileFormat(enum.StrEnum):
    """What a finished picture is written as. A clip is an animation, which JPEG has not."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one job, all resolved: defaults are filled in by the gateway, never by a worker.

    `guidance_scale` above 1 means two denoiser passes a step in families with classifier-free guidance.
    `negative_prompt` None means that the family's empty prompt is used where guidance needs one. `image` is
    an encoded picture in the handoff store to start from, `strength` in (0, 1] how far to leave it.
    `tiled_decode` is part of what the picture is, because tiles change pixels. `file_quality` is that of a
    JPEG or WebP file, 0 to 100; exactness is of the pixels before they are written.
    """

    prompt: str
    width_px: int
    height_px: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str | None = None
    num_frames: int = 1
    image: Handle | None = None
    strength: float | None = None
    adapter: Adapter | None = None
    tiled_decode: bool = False
    exactness: Exactness = Exactness.NUMERIC
    file_format: FileFormat = FileFormat.PNG
    file_quality: int = 100

    @property
    def workflow(self) -> str:
        """The key of its workflow in a family's table: "text", or "image" if it starts from one."""
        return "text" if self.image is None else "image"
