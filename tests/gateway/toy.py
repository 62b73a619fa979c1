"""The model of scripted workers: its stages, and what they make of an order."""

from __future__ import annotations

from pipelines.graph import Stage, StageGraph
from wire.to_worker import RunTask

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
