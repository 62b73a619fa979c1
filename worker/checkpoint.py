"""What a denoise loop is at a step boundary, so that it can go on elsewhere as if it had never stopped.

That is every value of the loop's that its blocks declare as output or that is another one than before the
first step (Wan's loop declares none), the whole state of each scheduler and guider, and the state of the
generator. Latents and the step's number alone go on without an error and give another picture: multi-step
samplers look back at earlier predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.guiders import BaseGuidance

from worker.errors import HandoffRefused
from worker.packing import Payload

# the config, which does not change, and `step`, which each task binds to its own generator
_NOT_STATE = ("_internal_dict", "step")
# stands for the job's generator wherever a loop keeps it among its values (SDXL's arguments of `step`)
_GENERATOR = "#generator"


@dataclass(frozen=True)
class Checkpoint:
    """The loop's state after `step` steps. `parts`: attributes of schedulers and guiders by their names."""

    step: int
    values: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    generator_state: torch.Tensor

    def payload(self) -> Payload:
        """As something that can be packed."""
        values = {"step": self.step, "values": self.values, "parts": self.parts}
        return Payload(values=values, generator_state=self.generator_state)

    @classmethod
    def of(cls, payload: Payload) -> Checkpoint:
        """The opposite of `payload`. Raises `HandoffRefused`."""
        try:
            step, values, parts = (payload.values[key] for key in ("step", "values", "parts"))
        except KeyError as error:
            raise HandoffRefused(f"not a checkpoint: it has no {error}") from error
        if payload.generator_state is None:
            raise HandoffRefused("not a checkpoint: it has no generator state")
        return cls(step=step, values=values, parts=parts, generator_state=payload.generator_state)


def capture(
    step: int, names: frozenset[str], state: Any, components: Any, generator: torch.Generator
) -> Checkpoint:
    """The loop as it stands: `names` of diffusers' block `state`, and what the pipeline's parts remember."""
    held = vars(state)
    return Checkpoint(
        step=step,
        values={name: _replaced(held[name], generator, _GENERATOR) for name in sorted(names) if name in held},
        parts={name: _state_of(part) for name, part in _stateful(components).items()},
        generator_state=generator.get_state(),
    )


def changed(began: dict[str, Any], state: Any) -> frozenset[str]:
    """Names whose value is not the object that it was when the loop began, which `began` remembers."""
    missing = object()
    return frozenset(name for name, value in vars(state).items() if value is not began.get(name, missing))


def restore(checkpoint: Checkpoint, state: Any, components: Any, generator: torch.Generator) -> None:
    """Puts the loop where it was. Schedulers are expected as the stage's own preparation leaves them."""
    for name, value in checkpoint.values.items():
        setattr(state, name, _replaced(value, _GENERATOR, generator))
    stateful = _stateful(components)
    if stateful.keys() != checkpoint.parts.keys():
        here, there = ", ".join(sorted(stateful)), ", ".join(sorted(checkpoint.parts))
        raise HandoffRefused(f"the checkpoint is of a pipeline with {there}, this one has {here}")
    for name, part in stateful.items():
        for attribute, value in checkpoint.parts[name].items():
            setattr(part, attribute, _placed(value, vars(part).get(attribute)))
    generator.set_state(checkpoint.generator_state)


def _stateful(components: Any) -> dict[str, Any]:
    return {
        name: part
        for name, part in components.components.items()
        if isinstance(part, SchedulerMixin | BaseGuidance)
    }


def _state_of(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in _NOT_STATE}


def _replaced(value: Any, old: Any, new: Any) -> Any:
    """`value` with `new` for every `old` in it."""
    match value:
        case list():
            return [_replaced(item, old, new) for item in value]
        case tuple():
            return tuple(_replaced(item, old, new) for item in value)
        case dict():
            return {key: _replaced(item, old, new) for key, item in value.items()}
        case torch.Tensor():
            return value
    return new if type(value) is type(old) and value == old else value


def _placed(value: Any, like: Any) -> Any:
    """Schedulers keep some tensors on the CPU and others on the device; each goes where its like is."""
    if isinstance(value, torch.Tensor) and isinstance(like, torch.Tensor):
        return value.to(like.device)
    return value
