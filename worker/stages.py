"""Runs stages of one job: the blocks of the whole pipeline, on the same values, in as many pieces as asked.

Between pieces travel the state names that later stages read, if a stage wrote or changed them, with their
kwargs tags, and the generator's state. Everything else is rebuilt from the request.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from diffusers.modular_pipelines import PipelineState
from PIL import Image

from pipelines.derive import is_loop
from pipelines.graph import Stage, StageGraph
from wire.generation import Generation
from worker.checkpoint import Checkpoint
from worker.encoder_call import ENCODERS, EncoderCall
from worker.errors import HandoffRefused
from worker.loop_tap import Capture, OnBoundary, tapped
from worker.network_tap import Through, divert
from worker.packing import Payload
from worker.resident import ResidentModel
from worker.task_pipeline import task_generator, task_inputs, task_pipeline


def _ignore(steps_done: int, steps: int, capture: Capture) -> None:
    pass


class StageRun:
    """One job's way through consecutive stages on one worker.

    Made from the request, the picture that it starts from if it does, and, unless the first stage is to run
    here, the payload of the stage before.
    """

    def __init__(
        self,
        resident: ResidentModel,
        generation: Generation,
        payload: Payload | None = None,
        image: Image.Image | None = None,
    ) -> None:
        self._resident = resident
        self._workflow = generation.workflow
        self._adapter = generation.adapter
        self._generator = task_generator(generation)
        self._first_state = self._generator.get_state()
        if payload is not None and payload.generator_state is not None:
            self._generator.set_state(payload.generator_state)
        self._pipe = task_pipeline(resident, generation, self._generator)
        self._inputs = task_inputs(resident, generation, self._generator, image)
        self._state = PipelineState()
        for name, default, kwargs_type in resident.input_defaults:
            self._state.set(name, self._inputs.get(name, default), kwargs_type)
        self._initial = dict(self._state.values)
        self._received: dict[str, Any] = {}
        if payload is not None:
            self._receive(payload)

    def run(self, name: str, on_boundary: OnBoundary = _ignore, checkpoint: Checkpoint | None = None) -> None:
        """Run stage `name`, a loop from `checkpoint` on. Raises what its blocks and `on_boundary` raise.

        Raises `StageNotResident`. After a raise this object is spent.
        """
        stage = self._resident.require(name, self._workflow)
        pipe, state = self._pipe, self._state
        # other stages may run while a loop of another job has its adapter on
        adapted = self._resident.adapted(self._adapter) if stage.has_loop else contextlib.nullcontext()
        with torch.no_grad(), adapted:
            for dotted in stage.blocks:
                block = self._resident.blocks[self._workflow][dotted]
                if is_loop(block):
                    block = tapped(block, on_boundary, self._resident.device, self._generator, checkpoint)
                pipe, state = block(pipe, state)
        if self._resident.device.type == "cuda":
            torch.cuda.synchronize(self._resident.device)

    def divert(self, through: Through) -> None:
        """Let calls of the loop's networks and of text encoders go through `through`, which makes them or has
        them made.

        Only calls are diverted: whoever makes them needs the loop's adapter on, as it is inside `run`.
        """
        divert(self._pipe, self._graph.stage(self._graph.loop_stage).loaded, through)
        for stage in self._graph.stages:
            divert(self._pipe, self._encoders(stage), through, EncoderCall)

    def shares(self, name: str) -> bool:
        """Whether stage `name` makes calls that `divert` takes aside."""
        stage = self._graph.stage(name)
        return stage.has_loop or bool(self._encoders(stage))

    def payload(self, after: str) -> Payload:
        """What the stages behind `after` need."""
        carried = self._graph.carried(after)
        values = {
            name: value
            for name, value in self._state.values.items()
            if name in carried and (name in self._received or value is not self._initial.get(name))
        }
        tags = {
            name: [tag for tag, names in self._state.kwargs_mapping.items() if name in names]
            for name in values
        }
        drawn = self._generator.get_state()
        unchanged = torch.equal(drawn, self._first_state)
        return Payload(values=values, tags=tags, generator_state=None if unchanged else drawn)

    def output(self) -> torch.Tensor:
        """The finished picture [1, C, H, W] or clip [1, F, C, H, W], values in 0..1, on the CPU."""
        value = self._state.get(self._graph.output)
        if not isinstance(value, torch.Tensor):
            raise HandoffRefused(f"{self._graph.output} is {type(value).__name__}, not a tensor")
        return value.detach().cpu()

    @property
    def _graph(self) -> StageGraph:
        return self._resident.graphs[self._workflow]

    def _encoders(self, stage: Stage) -> list[str]:
        """The text encoders of an encode stage that several jobs may share, where they are resident."""
        if stage.kind != "encode":
            return []
        return [name for name in stage.loaded if type(getattr(self._pipe, name)).__name__ in ENCODERS]

    def _receive(self, payload: Payload) -> None:
        moved = payload.to(self._resident.device)
        self._received = moved.values
        for name, value in moved.values.items():
            tags = moved.tags.get(name, [])
            self._state.set(name, value)
            for tag in tags:
                self._state.set(name, value, tag)
