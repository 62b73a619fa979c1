"""One model in pieces: whole on one worker object, split over three, and how to compare the two."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.catalogue import Model, load_catalogue
from pipelines.families import FAMILIES
from tests.families.tiny import TINY
from wire.generation import Generation
from wire.handle import Handle
from worker.checkpoint import Checkpoint
from worker.loop_tap import Capture
from worker.packing import Payload, pack, unpack
from worker.resident import ResidentModel
from worker.schedulers import scheduler_of
from worker.stages import StageRun
from worker.task_pipeline import run_whole

CPU = torch.device("cpu")
EMBEDDED = "embedded"
NAMES = (*TINY, EMBEDDED)
FROM_PICTURE = tuple(name for name in TINY if "image" in FAMILIES[name].workflows)

Made = tuple[torch.Tensor, list[torch.Tensor]]
"""Latents behind the loop, and what the VAE's decoder returned."""


class Left(BaseException):
    """Leaves a loop with its checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint


@dataclass(frozen=True)
class Case:
    """One model, whole on one worker object and each stage alone on another; `generation` is from text."""

    model: Model
    whole: ResidentModel
    alone: dict[str, ResidentModel]
    generation: Generation

    @property
    def loop_stage(self) -> str:
        return self.whole.graphs["text"].loop_stage

    def stages(self, generation: Generation) -> tuple[str, ...]:
        return self.whole.graphs[generation.workflow].names


def holding(model: Model, *stages: str) -> ResidentModel:
    resident = ResidentModel("tested", model, CPU)
    resident.load(stages or resident.stage_names)
    return resident


def make_case(name: str, folder: Path) -> Case:
    """The case of a family of `TINY`, made in `folder`, or of the embedded model."""
    return case_of(load_catalogue()["triptych-emoji"] if name == EMBEDDED else TINY[name](folder))


def case_of(model: Model) -> Case:
    whole = holding(model)
    width_px, height_px = model.default_size_px
    generation = Generation(
        prompt="a cat",
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=4,
        guidance_scale=3.5,
        seed=11,
        num_frames=model.default_frames,
    )
    return Case(model, whole, {stage: holding(model, stage) for stage in whole.stage_names}, generation)


def source_picture(generation: Generation) -> Image.Image | None:
    """The picture that `generation` starts from: noise in large blocks, seeded by the picture's name."""
    if generation.image is None:
        return None
    seed = list(generation.image.name.encode())
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((generation.width_px, generation.height_px))


SOURCE = Handle(node="tests", name="source", n_bytes=0)


@contextmanager
def raw_pixels(resident: ResidentModel) -> Iterator[list[torch.Tensor]]:
    """Collects what the VAE's decoder returns, before it is clamped to 0..1."""
    raw: list[torch.Tensor] = []

    def collect(_module: Any, _inputs: Any, output: Any) -> None:
        # CogVideoX's decoder returns what it keeps for the next frames too
        raw.append((output[0] if isinstance(output, tuple) else output).clone())

    hook = resident.pipe.vae.decoder.register_forward_hook(collect)
    yield raw
    hook.remove()


def made_whole(case: Case, generation: Generation) -> Made:
    with raw_pixels(case.whole) as raw:
        state = run_whole(case.whole, generation, source_picture(generation))
    return state.get("latents"), raw


def handed_over(payload: Payload, drop: str | None = None) -> Payload:
    """Through bytes and back, as between two processes; `drop` loses one field on the way."""
    kept = {name: value for name, value in payload.values.items() if name != drop}
    return unpack(pack(replace(payload, values=kept))[0])


def checkpoint_at(
    resident: ResidentModel,
    generation: Generation,
    payload: Payload | None,
    step: int,
    *,
    stage: str,
    before: Checkpoint | None = None,
) -> Checkpoint:
    """The loop left behind `step` steps, its checkpoint through bytes and back."""

    def leave(done: int, steps: int, capture: Capture) -> None:
        if done == step:
            raise Left(capture())

    try:
        StageRun(resident, generation, payload, source_picture(generation)).run(stage, leave, before)
    except Left as left:
        return Checkpoint.of(unpack(pack(left.checkpoint.payload())[0]))
    raise AssertionError(f"the loop has no step {step}")


def made_split(
    case: Case,
    generation: Generation,
    *,
    pause_at: tuple[int, ...] = (),
    drop: str | None = None,
    skip_step: int | None = None,
    lose_generator: bool = False,
) -> Made:
    """The same job, each stage on another worker object, the loop left and continued on yet another one at
    each step of `pause_at`. The other keyword arguments break it on purpose."""
    payload: Payload | None = None
    latents = torch.empty(0)
    stages = case.stages(generation)
    with raw_pixels(case.alone[stages[-1]]) as raw:
        for stage in stages:
            checkpoint: Checkpoint | None = None
            if stage == case.loop_stage:
                for number, step in enumerate(pause_at):
                    resident = case.whole if number % 2 else case.alone[stage]
                    checkpoint = checkpoint_at(
                        resident, generation, payload, step, stage=stage, before=checkpoint
                    )
            resident = case.alone[stage]
            run = StageRun(resident, generation, payload, source_picture(generation))
            if stage == case.loop_stage and skip_step is not None:
                _skipping(run, skip_step)
            run.run(stage, checkpoint=checkpoint)
            if stage == stages[-1]:
                break
            payload = handed_over(run.payload(stage), drop)
            if lose_generator:
                payload = replace(payload, generator_state=torch.Generator("cpu").get_state())
            if stage == case.loop_stage:
                latents = payload.values.get("latents", latents)
    return latents, raw


def _skipping(run: StageRun, step: int) -> None:
    """Make the scheduler of this run leave the latents alone at one step."""
    scheduler: Any = run._pipe.scheduler
    original, calls = scheduler.step, iter(range(1000))

    def skip(*args: Any, **kwargs: Any) -> Any:
        sample = inspect.signature(original).bind(*args, **kwargs).arguments["sample"]
        moved = original(*args, **kwargs)
        return (sample, *moved[1:]) if next(calls) == step else moved

    scheduler.step = skip


@contextmanager
def sampled(case: Case, sampler: str | None) -> Iterator[None]:
    """The case's models as if the catalogue named `sampler`; None leaves them as they are."""
    residents = [case.whole, *case.alone.values()]
    own = [resident.pipe.scheduler for resident in residents]
    for resident, scheduler in zip(residents, own, strict=True):
        resident.pipe.scheduler = scheduler_of(scheduler, sampler)
    yield
    for resident, scheduler in zip(residents, own, strict=True):
        resident.pipe.scheduler = scheduler


def equal(ours: Made, theirs: Made) -> bool:
    pairs = zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
