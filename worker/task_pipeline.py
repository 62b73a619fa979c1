"""The pipeline of one task: the resident one, with schedulers, guiders and random numbers of its own.

A copy costs microseconds and shares all weights. One CPU generator per picture drives everything random: it
is also bound into the scheduler's `step` where that takes one, because most families leave stochastic
samplers to torch's global generator, and then two runs with one seed differ.
"""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.guiders import BaseGuidance
from PIL import Image

from pipelines.families import pipeline_inputs
from wire.generation import Generation
from worker.errors import HandoffRefused
from worker.guidance import task_guider
from worker.resident import ResidentModel
from worker.tiles import decoding_in_tiles


def task_generator(generation: Generation) -> torch.Generator:
    """The generator of one picture, at its start."""
    return torch.Generator("cpu").manual_seed(generation.seed)


def task_pipeline(resident: ResidentModel, generation: Generation, generator: torch.Generator) -> Any:
    """A copy of the resident pipeline that one task may change."""
    family = resident.model.family_table
    pipe = copy.copy(resident.pipe)
    for name, component in resident.pipe.components.items():
        if isinstance(component, SchedulerMixin):
            scheduler = copy.deepcopy(component)
            if "generator" in inspect.signature(scheduler.step).parameters:
                scheduler.step = functools.partial(scheduler.step, generator=generator)
            setattr(pipe, name, scheduler)
        elif isinstance(component, BaseGuidance):
            setattr(pipe, name, task_guider(component, family, generation.guidance_scale))
    if generation.tiled_decode:
        pipe.vae = decoding_in_tiles(resident.pipe.vae, resident.model.decode_tile_px)
    return pipe


def task_inputs(
    resident: ResidentModel,
    generation: Generation,
    generator: torch.Generator,
    image: Image.Image | None = None,
) -> dict[str, Any]:
    """What the whole pipeline would be called with. Raises `HandoffRefused` if its picture is missing."""
    if (image is None) != (generation.image is None):
        raise HandoffRefused("a task that starts from a picture needs it, and no other does")
    model = resident.model
    inputs = {**pipeline_inputs(model.family_table, generation, model.inputs), "generator": generator}
    return inputs if image is None else {**inputs, "image": image}


def run_whole(resident: ResidentModel, generation: Generation, image: Image.Image | None = None) -> Any:
    """The reference: the whole modular pipeline, called once. Returns diffusers' `PipelineState`.

    Needs every stage resident. This is what a split run has to equal bit for bit.
    """
    generator = task_generator(generation)
    pipe = task_pipeline(resident, generation, generator)
    with resident.adapted(generation.adapter):
        return pipe(**task_inputs(resident, generation, generator, image))
