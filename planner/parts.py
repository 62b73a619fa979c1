"""What placement moves: the parts of a model, E before its loop, D the loop and C behind it.

A worker is named by the letters that it holds of a model. A *virtual replica* is a set of workers that holds
all of them; its type says what the worker with the loop lacks: V0 nothing, V1 E, V2 C, V3 both. From V0 to V3
more is handed from worker to worker.

Source of the virtual replicas: TridentServe (arXiv 2510.02838).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType

from planner.types import ModelView, StageKey

REPLICA_TYPES: Mapping[str, str] = MappingProxyType({"": "V0", "E": "V1", "C": "V2", "EC": "V3"})
"""The virtual replica's type by what its worker with the loop lacks of the model."""


@dataclass(frozen=True, slots=True)
class Part:
    """Stages of `model` that are placed together; `letter` is E, D or C."""

    model: str
    letter: str
    stages: tuple[str, ...]

    @property
    def keys(self) -> frozenset[StageKey]:
        return frozenset((self.model, stage) for stage in self.stages)


def parts_of(
    models: Iterable[ModelView], fits_somewhere: Callable[[Part], bool] = lambda part: True
) -> tuple[Part, ...]:
    """The parts of all models, by model and in the order E, D, C.

    One of several stages that no worker can hold is taken apart into one part for each stage.
    """
    parts: list[Part] = []
    for view in sorted(models, key=lambda view: view.model):
        for letter, stages in _lettered(view).items():
            whole = Part(view.model, letter, stages)
            if len(stages) == 1 or fits_somewhere(whole):
                parts.append(whole)
            else:
                parts += (Part(view.model, letter, (stage,)) for stage in stages)
    return tuple(parts)


def letters(view: ModelView, held: Set[StageKey]) -> str:
    """What a worker that holds `held` is called for that model: "EDC", "DC", "E"; "" with no part whole."""
    return "".join(
        letter
        for letter, stages in _lettered(view).items()
        if all((view.model, stage) in held for stage in stages)
    )


def replica_type(view: ModelView, held: Set[StageKey]) -> str | None:
    """V0 to V3 for a worker with the loop of that model, None for any other."""
    has = letters(view, held)
    return (
        REPLICA_TYPES["".join(letter for letter in _lettered(view) if letter not in has)]
        if "D" in has
        else None
    )


def _lettered(view: ModelView) -> dict[str, tuple[str, ...]]:
    at = view.stages.index(view.loop_stage)
    by_letter = {"E": view.stages[:at], "D": view.stages[at : at + 1], "C": view.stages[at + 1 :]}
    return {letter: stages for letter, stages in by_letter.items() if stages}
