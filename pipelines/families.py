"""The families: how each one's pipeline takes what a request says. One literal table, read by everyone.

Found by experiment on diffusers 0.42: most families take the guidance scale from a guider object, Flux takes
it as an input of the network; SD3 runs unguided, and still pays two passes, if guidance is on and no negative
prompt is given, so the empty one is passed.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pipelines.errors import FieldRefused
from wire.generation import Generation


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """One way through a family's blocks: `name` in their map of workflows, or resolved by `triggers`.

    `takes_strength`: whether the input picture is noised and denoised again; it is a condition otherwise.
    """

    name: str | None = None
    triggers: tuple[str, ...] = ("prompt",)
    takes_strength: bool = False


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """How one family of pipelines is driven.

    `blocks` names diffusers' class of blocks, or a class of ours as "module:Class". `workflows`: by what a
    request starts from, "text" or "image". `guidance`: "guider" (a fresh guider per task), "input" (of the
    network) or "none", where `guidance_scale` is always 1. `predicts`: what its networks are trained to
    predict. `samplers`: names in `pipelines.samplers.SAMPLERS` that were found to run, exactly, with it.
    `no_negative_prompt`: what stands for none when guidance is on: the empty prompt, or None where the
    pipeline itself has something for that (SDXL takes zeros).
    `sizes_only`: parts that the stage of the loop declares, but takes nothing from except sizes.
    `needs_negative`: whether its blocks cannot do without negative embeddings, even when guidance is off.
    `frame_stride`: a clip has a multiple of it, and one more, frames. `min_steps`: below, its published
    scheduler makes no numbers.

    `takes_lora`, `tiles_decode`: whether diffusers' class of its denoiser takes adapters, and its VAE decodes
    in tiles. `decode_bytes_per_px`: bytes of activations at the peak of a full decode in 16 bits, per pixel
    of each of the `decode_frames_at_once` frames that its VAE has in work together, None for all frames of a
    clip. Counted over the published VAE without weights (`tests/pipelines/test_decode_bytes.py`), rounded up.
    The default is that of the VAE that SD, SDXL, SD3 and Flux share: three activations of 256 channels at
    full size, in the first block of the last level.
    """

    blocks: str
    workflows: dict[str, Workflow]
    guidance: Literal["guider", "input", "none"]
    takes_negative_prompt: bool
    output: Literal["images", "videos"]
    predicts: Literal["flow", "noise", "v"]
    samplers: tuple[str, ...]
    needs_negative: bool = False
    frame_stride: int = 1
    min_steps: int = 1
    no_negative_prompt: str | None = ""
    sizes_only: tuple[str, ...] = ()
    takes_lora: bool = True
    tiles_decode: bool = True
    decode_bytes_per_px: int = 1600
    decode_frames_at_once: int | None = None


FAMILIES: dict[str, Family] = {
    "sd3": Family(
        blocks="StableDiffusion3AutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image2image", takes_strength=True),
        },
        guidance="guider",
        takes_negative_prompt=True,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow", "dpm++-flow"),
    ),
    "flux": Family(
        blocks="FluxAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image2image", takes_strength=True),
        },
        guidance="input",
        takes_negative_prompt=False,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow", "dpm++-flow"),
    ),
    "flux-schnell": Family(
        blocks="FluxAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image2image", takes_strength=True),
        },
        guidance="none",
        takes_negative_prompt=False,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow"),
    ),
    "flux2": Family(
        blocks="Flux2AutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image_conditioned"),
        },
        guidance="input",
        takes_negative_prompt=False,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow", "dpm++-flow"),
    ),
    "flux2-klein": Family(
        blocks="Flux2KleinAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image_conditioned"),
        },
        guidance="none",
        takes_negative_prompt=False,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow", "dpm++-flow"),
    ),
    "flux2-klein-base": Family(
        blocks="Flux2KleinBaseAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image_conditioned"),
        },
        guidance="guider",
        takes_negative_prompt=False,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow", "dpm++-flow"),
    ),
    "qwen-image": Family(
        blocks="QwenImageAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image2image", takes_strength=True),
        },
        guidance="guider",
        takes_negative_prompt=True,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow"),
        decode_bytes_per_px=3500,
    ),
    "z-image": Family(
        blocks="ZImageAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image2image", takes_strength=True),
        },
        guidance="guider",
        takes_negative_prompt=True,
        output="images",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm"),
    ),
    "sdxl": Family(
        blocks="StableDiffusionXLAutoBlocks",
        workflows={
            "text": Workflow(name="text2image"),
            "image": Workflow(name="image2image", takes_strength=True),
        },
        guidance="guider",
        takes_negative_prompt=True,
        output="images",
        predicts="noise",
        samplers=("euler", "euler-a", "unipc", "dpm++", "dpm++-sde", "lcm"),
        no_negative_prompt=None,
        sizes_only=("vae",),
    ),
    "wan": Family(
        blocks="WanBlocks",
        workflows={"text": Workflow()},
        guidance="guider",
        takes_negative_prompt=True,
        output="videos",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow", "dpm++-flow"),
        needs_negative=True,
        frame_stride=4,
        decode_bytes_per_px=2700,
        decode_frames_at_once=4,
    ),
    "hunyuan-video-1.5": Family(
        blocks="pipelines.hunyuan_video:HunyuanVideo15Blocks",
        workflows={"text": Workflow(name="text2video"), "image": Workflow(name="image2video")},
        guidance="guider",
        takes_negative_prompt=True,
        output="videos",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow"),
        needs_negative=True,
        frame_stride=4,
        decode_bytes_per_px=1850,
    ),
    "ltx": Family(
        blocks="LTXAutoBlocks",
        workflows={"text": Workflow(name="text2video"), "image": Workflow(name="image2video")},
        guidance="guider",
        takes_negative_prompt=True,
        output="videos",
        predicts="flow",
        samplers=("flow-euler", "flow-lcm", "unipc-flow"),
        needs_negative=True,
        frame_stride=8,
        min_steps=2,
        decode_bytes_per_px=110,
    ),
    "cogvideox": Family(
        blocks="pipelines.cogvideox:CogVideoXBlocks",
        workflows={"text": Workflow()},
        guidance="guider",
        takes_negative_prompt=True,
        output="videos",
        predicts="v",
        samplers=("cogvideox-ddim", "cogvideox-dpm"),
        frame_stride=8,
        decode_bytes_per_px=6300,
        decode_frames_at_once=8,
    ),
}


def is_guided(family: Family, guidance_scale: float) -> bool:
    """Whether the denoiser runs twice a step."""
    return family.guidance == "guider" and guidance_scale > 1.0


_WITHOUT = {"text": " without a picture to start from", "image": ", for which a picture is a condition"}


def check_fields(
    family: Family,
    *,
    guidance_scale: float,
    negative_prompt: str | None,
    workflow: str = "text",
    strength: float | None = None,
    num_inference_steps: int | None = None,
    lora: str | None = None,
    tiled_decode: bool = False,
    num_frames: int | None = None,
) -> None:
    """Raises `FieldRefused` for a field that would have no effect or that the family cannot run with.

    `workflow`: "image" if the request starts from a picture. `num_inference_steps` has to be given with
    `strength`, which decides how many of them run. `lora`: the adapter's name.
    """
    if workflow not in family.workflows:
        raise FieldRefused("image", "this model does not start from a picture")
    if strength is not None and not family.workflows[workflow].takes_strength:
        raise FieldRefused("strength", "strength has no effect on this model" + _WITHOUT[workflow])
    if strength is not None:
        assert num_inference_steps is not None
        if strength * num_inference_steps < 1.0:
            # SDXL fails without a step, the others run one all the same
            raise FieldRefused("strength", "strength times num_inference_steps must be at least 1")
    if lora is not None and not family.takes_lora:
        raise FieldRefused("lora", "this model takes no LoRA adapters")
    if tiled_decode and not family.tiles_decode:
        raise FieldRefused("tiled_decode", "this model's VAE does not decode in tiles")
    if num_inference_steps is not None and num_inference_steps < family.min_steps:
        raise FieldRefused(
            "num_inference_steps", f"num_inference_steps must be at least {family.min_steps} for this model"
        )
    if num_frames is not None:
        _check_frames(family, num_frames)
    if family.guidance == "none" and guidance_scale != 1.0:
        raise FieldRefused("guidance_scale", "guidance_scale has no effect on this model, which is distilled")
    if family.guidance == "guider" and guidance_scale < 1.0:
        raise FieldRefused("guidance_scale", "guidance_scale must be at least 1, which is unguided")
    if negative_prompt is None:
        return
    if not family.takes_negative_prompt:
        raise FieldRefused("negative_prompt", "this model has no negative prompt")
    if not is_guided(family, guidance_scale):
        raise FieldRefused("negative_prompt", "negative_prompt has no effect when guidance_scale is 1")


def _check_frames(family: Family, num_frames: int) -> None:
    if family.output == "images":
        raise FieldRefused("num_frames", "num_frames has no effect on this model, which makes pictures")
    if num_frames < 1 or (num_frames - 1) % family.frame_stride:
        raise FieldRefused(
            "num_frames", f"num_frames must be a multiple of {family.frame_stride} and 1 more for this model"
        )


def pipeline_inputs(family: Family, generation: Generation, extra: dict[str, Any]) -> dict[str, Any]:
    """Inputs of the whole pipeline for one job, without its generator and its picture to start from.

    `extra`: the catalogue's.
    """
    inputs: dict[str, Any] = {
        "prompt": generation.prompt,
        "height": generation.height_px,
        "width": generation.width_px,
        "num_inference_steps": generation.num_inference_steps,
        "output_type": "pt",
        **extra,
    }
    if family.output == "videos":
        inputs["num_frames"] = generation.num_frames
    if generation.strength is not None:
        inputs["strength"] = generation.strength
    if family.guidance == "input":
        inputs["guidance_scale"] = generation.guidance_scale
    if family.takes_negative_prompt and is_guided(family, generation.guidance_scale):
        given = generation.negative_prompt
        inputs["negative_prompt"] = family.no_negative_prompt if given is None else given
    return inputs
