"""Costs of four published models on NVIDIA L20 GPUs: measured denoising steps, everything else derived.

Seconds per denoising step are published; encode and decode times, memory and loading times on an L20 are not.
What is derived, and from what:

- *Encode*: multiply-adds of the text encoders at the tokens they are given, at half of the L20's 119.5 dense
  bf16 TFLOP/s. The same for every shape.
- *Decode of a picture*: proportional to pixels; the 253 ms at 1024 px on an H800 (LegoDiffusion, arXiv
  2604.08123) times 3.46, which is what a Flux step at 1024 px takes on an L20 over an H800 (.840 / .243 s).
- *Decode of a video*: proportional to pixels times frames, so that over the published mix encode aside the
  decode has 10 parts to the 88 of the denoise at degree 1, TridentServe's shares under heavy load.
- *Weights*: parameters in bf16. *Loading*: 12 GB/s, which is what LegoDiffusion's load times from host memory
  give (Flux-dev 2.94 s, SD3 .44 s without its T5).
- *Peak beside the weights*: the denoise holds about 16 activations of the model's width per token, divided by
  the degree; the decode about 2,400 bytes per pixel of the eight frames that are decoded at once (the widest
  feature maps at full resolution, which are five of 256 channels or their equal). The encode is left out.

The denoise alone gets faster with the degree. Neither paper batches it, so no batches are offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.costs import Costs, ModelCosts
from planner.measurements import Measurement, Measurements
from planner.types import ModelView, Shape

DEVICE = "NVIDIA L20"
DEGREES = (1, 2, 4, 8)
STAGES = ("text_encoder", "denoise", "decode")

USABLE_BYTES = int(0.9 * 48e9)
"""Of an L20's 48 GB; a tenth is the CUDA context's and what the allocator cannot use."""

RESUME_S = 0.04
HANDOFF_S = 0.005

_FLOPS = 0.5 * 119.5e12
_LOAD_BYTES_PER_S = 12e9
_PICTURE_DECODE_S_PER_PX = 0.253 / 1024**2 * (0.84034 / 0.243)
_VIDEO_DECODE_SHARE = 10 / 88
_DENOISE_BYTES = 16 * 2
_DECODE_BYTES_PER_PX = 2400
_DECODED_AT_ONCE = 8

_StepS = tuple[int, int, int, int, tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class _Published:
    """`step_s`: height, width, frames, tokens, seconds of a step at degrees 1, 2, 4 and 8.

    `mix`: how many of them, from the first, the published traces ask for, None for those with more than one
    frame. Parameters in billions; `encoded_tokens` over all passes of the text encoders.
    """

    steps: int
    step_s: tuple[_StepS, ...]
    mix: int | None
    width: int
    encoder_b: float
    network_b: float
    decoder_b: float
    encoded_tokens: int


# Source: the profile table published with TridentServe's code (PKU-DAIR/Hetu-DiT, hetu_dit/model_profiler.py,
# commit f3b8327), Ulysses sequence parallelism. The GPU is inferred: its README names 128 L20. CogVideoX
# 768x432x33 at degree 2 equals degree 4 there, taken for a misprint: here the geometric mean of degrees 1 and
# 4. The steps and mixes are those of its traces; SD3's mix is its whole table. Parameters: the models' cards.
_PUBLISHED: Mapping[str, _Published] = {
    "sd3": _Published(
        steps=20,
        step_s=(
            (128, 128, 1, 64, (0.02205, 0.02205, 0.02205, 0.02205)),
            (256, 256, 1, 256, (0.02966, 0.02966, 0.02966, 0.02966)),
            (512, 512, 1, 1024, (0.05917, 0.06301, 0.06301, 0.06301)),
            (1024, 1024, 1, 4096, (0.24272, 0.17857, 0.16667, 0.15385)),
            (1536, 1536, 1, 9216, (0.59524, 0.36743, 0.29762, 0.17303)),
        ),
        mix=5,
        width=1536,
        encoder_b=5.58,
        network_b=2.03,
        decoder_b=0.084,
        encoded_tokens=2 * 256,
    ),
    "flux": _Published(
        steps=28,
        step_s=(
            (128, 128, 1, 64, (0.05429, 0.05501, 0.05056, 0.04630)),
            (256, 256, 1, 256, (0.10858, 0.11001, 0.10111, 0.09259)),
            (512, 512, 1, 1024, (0.22173, 0.19493, 0.13661, 0.12121)),
            (1024, 1024, 1, 4096, (0.84034, 0.53763, 0.32362, 0.22727)),
            (2048, 2048, 1, 16384, (4.67, 2.85, 1.48, 1.28)),
            (3072, 3072, 1, 36864, (15.5, 9.0, 4.55, 2.46)),
            (4096, 4096, 1, 65536, (39.83, 22.97, 11.76, 5.66)),
        ),
        mix=5,
        width=3072,
        encoder_b=4.88,
        network_b=11.9,
        decoder_b=0.084,
        encoded_tokens=512,
    ),
    "cogvideox": _Published(
        steps=6,
        step_s=(
            (768, 432, 1, 1296, (0.38462, 0.26247, 0.22573, 0.15873)),
            (768, 432, 17, 5184, (1.19, 0.76336, 0.45045, 0.3)),
            (768, 432, 33, 10368, (2.16, 1.27445, 0.75188, 0.45249)),
            (768, 432, 65, 20736, (4.42, 2.76, 1.49, 0.82645)),
            (768, 432, 81, 25920, (5.72, 3.51, 1.89, 1.01)),
            (768, 1360, 1, 4080, (1.26, 0.78125, 0.48309, 0.29762)),
            (768, 1360, 17, 16320, (4.71, 2.91, 1.55, 0.84034)),
            (768, 1360, 33, 32640, (9.37, 5.63, 3.0, 1.57)),
            (768, 1360, 65, 65280, (22.14, 13.07, 6.77, 3.56)),
            (768, 1360, 81, 81600, (30.5, 17.75, 9.1, 4.75)),
        ),
        mix=None,
        width=3072,
        encoder_b=4.76,
        network_b=5.57,
        decoder_b=0.216,
        encoded_tokens=2 * 226,
    ),
    "hunyuanvideo": _Published(
        steps=6,
        step_s=(
            (960, 544, 1, 2040, (0.54, 0.46, 0.38, 0.3)),
            (960, 544, 17, 8160, (2.77, 1.83, 1.02, 0.68)),
            (960, 544, 33, 16320, (6.01, 3.68, 2.03, 1.0)),
            (960, 544, 65, 32640, (15.09, 8.76, 4.51, 2.3)),
            (960, 544, 129, 65280, (43.58, 24.6, 12.4, 6.67)),
            (720, 1280, 1, 3600, (0.7874, 0.68, 0.48, 0.38)),
            (720, 1280, 17, 14400, (5.84, 3.61, 1.86, 1.08)),
            (720, 1280, 33, 28800, (13.7, 8.01, 4.1, 2.35)),
            (720, 1280, 65, 57600, (37.53, 21.0, 10.7, 5.8)),
            (720, 1280, 129, 115200, (118.0, 64.48, 31.92, 16.35)),
        ),
        mix=None,
        width=3072,
        encoder_b=8.16,
        network_b=12.8,
        decoder_b=0.246,
        encoded_tokens=351,
    ),
}

MODELS = tuple(_PUBLISHED)
VIEWS = ("resident", "48gb")


def l20(*models: str, view: str = "resident") -> Costs:
    """The table of `models` on L20 GPUs. `view`: "resident" has no bound on memory, "48gb" the L20's.

    Raises `KeyError` for a model that is not in `MODELS` or a view that is not in `VIEWS`.
    """
    memory_bytes = {"resident": None, "48gb": USABLE_BYTES}[view]
    return Costs(
        name=f"L20, {view}",
        device=DEVICE,
        models={model: _costs(model, _PUBLISHED[model]) for model in models},
        resume_s=RESUME_S,
        handoff_s=HANDOFF_S,
        memory_bytes=memory_bytes,
    )


def _costs(model: str, published: _Published) -> ModelCosts:
    rows = {
        Shape(width, height, frames): row for row in published.step_s for height, width, frames, *_ in [row]
    }
    if published.mix is None:
        mix = tuple(shape for shape in rows if shape.frames > 1)
    else:
        mix = tuple(rows)[: published.mix]
    decode_s_per_px = _decode_s_per_px(published, rows, mix)
    encode_s = 2 * published.encoder_b * 1e9 * published.encoded_tokens / _FLOPS
    measured: list[Measurement] = []
    for shape, (_, _, _, tokens, seconds) in rows.items():
        at_once_px = shape.width_px * shape.height_px * min(shape.frames, _DECODED_AT_ONCE)
        measured += [
            Measurement(stage="text_encoder", shape=shape, seconds=encode_s, peak_bytes=0),
            Measurement(
                stage="decode",
                shape=shape,
                seconds=decode_s_per_px * shape.tokens,
                peak_bytes=_DECODE_BYTES_PER_PX * at_once_px,
            ),
        ]
        measured += [
            Measurement(
                stage="denoise",
                shape=shape,
                seconds=step_s,
                peak_bytes=tokens * published.width * _DENOISE_BYTES // degree,
                degree=degree,
            )
            for degree, step_s in zip(DEGREES, seconds, strict=True)
        ]
    billions = (published.encoder_b, published.network_b, published.decoder_b)
    weight_bytes = {stage: int(b * 2e9) for stage, b in zip(STAGES, billions, strict=True)}
    load_s = {stage: n_bytes / _LOAD_BYTES_PER_S for stage, n_bytes in weight_bytes.items()}
    measurements = Measurements(
        device=DEVICE,
        model=model,
        measured=tuple(measured),
        weight_bytes=weight_bytes,
        load_s=load_s,
        resume_s=RESUME_S,
    )
    view = ModelView(model, STAGES, "denoise", weight_bytes, load_s)
    return ModelCosts(view=view, steps=published.steps, mix=mix, measurements=measurements)


def _decode_s_per_px(published: _Published, rows: Mapping[Shape, _StepS], mix: tuple[Shape, ...]) -> float:
    """Seconds per pixel and frame. `Shape.tokens` are pixels times frames."""
    if published.mix is not None:
        return _PICTURE_DECODE_S_PER_PX
    denoise_s = sum(published.steps * rows[shape][-1][0] for shape in mix)
    return _VIDEO_DECODE_SHARE * denoise_s / sum(shape.tokens for shape in mix)
