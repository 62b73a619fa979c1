"""The model of scripted workers: its stages, and what they make of an order."""

from __future__ import annotations

from pipelines.graph import Stage, StageGraph
from planner.measurements import Measurement, Measurements
from planner.types import Shape
from wire.to_worker import MeasureProfile, RunTask

NODE = "node-of-tests"
STAGES = ("text_encoder", "denoise", "decode")
CLIPS = "toy-clips"
"""A model whose last stage has another name."""


def _stage(name: str, kind: str, *reads: str) -> Stage:
    return Stage(name=name, kind=kind, blocks=(), components=(), loaded=(), reads=reads, writes=())


def graph(model: str = "toy") -> StageGraph:
    return StageGraph(
        model=model,
        workflow="text2image",
        pipeline_class="Toy",
        stages=(
            _stage("text_encoder", "encode", "prompt", "negative_prompt"),
            _stage("denoise", "diffuse"),
            _stage("clip_decode" if model == CLIPS else "decode", "decode"),
        ),
        output="images",
    )


def picture_of(seed: int, size: str = "128x128", model: str = "toy") -> bytes:
    """Another one from each model."""
    return (f"PNG {seed} {size}" if model == "toy" else f"PNG {seed} {size} of {model}").encode()


def picture_for(order: RunTask) -> bytes:
    """What the last stage makes."""
    asked = order.generation
    return picture_of(asked.seed, f"{asked.width_px}x{asked.height_px}", order.model)


def encoded_of(order: RunTask) -> bytes:
    """What the encode stage makes: the same for every seed, another one from each model."""
    # none and the empty one are the same to a family with guidance, and so to the cache
    encoded = f"encoded {order.generation.prompt} {order.generation.negative_prompt or ''}"
    return (encoded if order.model == "toy" else f"{encoded} by {order.model}").encode()


def checkpoint_of(order: RunTask, step: int) -> bytes:
    return f"{step} of {order.generation.seed}".encode()


def weight_bytes(model: str) -> dict[str, int]:
    return {stage: 100 * place for place, stage in enumerate(graph(model).names, 1)}


def measurements(order: MeasureProfile) -> Measurements:
    """A microsecond and 10 bytes a token, at every shape; weights and loads by the stage's place."""
    shapes = [Shape(g.width_px, g.height_px, guided=g.guidance_scale > 1) for g in order.generations]
    stages = graph(order.model).names
    return Measurements(
        device="",
        model=order.model,
        measured=tuple(
            Measurement(stage=stage, shape=s, seconds=1e-6 * s.tokens, peak_bytes=10 * s.tokens)
            for stage in stages
            for s in shapes
        ),
        weight_bytes=weight_bytes(order.model),
        load_s={stage: float(place) for place, stage in enumerate(stages, 1)},
        resume_s=0.25,
    )
