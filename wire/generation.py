"""What one picture (or clip) is to be: the request's fields after validation, before any family's mapping."""

from __future__ import annotations

import msgspec


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of one job, all resolved: defaults are filled in by the gateway, never by a worker.

    `guidance_scale` above 1 means two denoiser passes a step in families with classifier-free guidance.
    `negative_prompt` None means that the family's empty prompt is used where guidance needs one.
    """

    prompt: str
    width_px: int
    height_px: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    negative_prompt: str | None = None
    num_frames: int = 1
