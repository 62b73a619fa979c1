"""What is resident: one pipeline object per model, of the model's own class and config.

Small parts (tokenizers, schedulers, processors, guiders) are always held; parts with weights are held for the
resident stages and are `ConfigOnly` stand-ins otherwise. Building a smaller pipeline per stage would give
some families the wrong class, the wrong config or no guider.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from diffusers import SchedulerMixin

from pipelines.catalogue import Model
from pipelines.derive import derive, init_pipeline, is_loop, weight_components, workflow_blocks
from pipelines.graph import Stage, StageGraph
from wire.generation import Adapter
from worker.adapters import DENOISERS, AdapterCache
from worker.components import Components, n_bytes_of
from worker.config_only import ConfigOnly, stand_in
from worker.errors import LoadRefused, StageNotResident
from worker.schedulers import scheduler_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def computed_in(model: Model, device: torch.device) -> torch.dtype:
    """The type of its weights there: stored narrow, but a CPU is both faster and closer in float32."""
    return torch.float32 if device.type == "cpu" else _DTYPES[model.dtype]


def _walk(block: Any) -> Iterator[Any]:
    """`block` and all blocks inside it."""
    yield block
    for inner in block.sub_blocks.values():
        yield from _walk(inner)


class ResidentModel:
    """One model on one device, with any of its stages loaded.

    Nothing is loaded at first. Not safe for use from several threads.
    """

    def __init__(
        self, name: str, model: Model, device: torch.device, components: Components | None = None
    ) -> None:
        """Reads configs, tokenizers and schedulers. Raises `GraphRefused` or `LoadRefused`.

        `components`: the worker's, which its models share; of its own where None.
        """
        if model.dtype not in _DTYPES:
            raise LoadRefused(f"{name}.dtype is {model.dtype!r}; known: {', '.join(_DTYPES)}")
        self.name = name
        self._components = Components(device) if components is None else components
        self.source = model.source
        self.model = model = self._components.opened(model)
        self.device = device
        self.graphs: dict[str, StageGraph] = derive(name, model)
        self.dtype = computed_in(model, device)
        self.blocks: dict[str, dict[str, Any]] = {
            workflow: workflow_blocks(model, workflow) for workflow in self.graphs
        }
        self.pipe: Any = init_pipeline(model)
        self.input_defaults: tuple[tuple[str, Any, str | None], ...] = tuple(
            (parameter.name, parameter.default, parameter.kwargs_type)
            for parameter in self.pipe.blocks.inputs
            if parameter.name
        )
        leaves = [block for blocks in self.blocks.values() for block in blocks.values()]
        for block in (*leaves, *_walk(self.pipe._blocks)):
            if is_loop(block):
                block.set_progress_bar_config(disable=True)
        self._weights = weight_components(self.pipe)
        self._stages: set[str] = set()
        self.origins: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self.part_names: frozenset[str] = frozenset()
        self._stand_ins = {name: self._stand_in(name) for name in self._weights}
        self._adapters = AdapterCache()
        self._load_small_parts()
        for component in self._weights:
            self._put_stand_in(component)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of all stages, over all workflows."""
        longest_first = sorted(self.graphs.values(), key=lambda graph: -len(graph.stages))
        return tuple(dict.fromkeys(name for graph in longest_first for name in graph.names))

    @property
    def stages(self) -> frozenset[str]:
        """Names of the stages that can run now."""
        return frozenset(self._stages)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights and buffers held."""
        return sum(n_bytes_of(getattr(self.pipe, component)) for component in self._held())

    def require(self, name: str, workflow: str) -> Stage:
        """The stage, if it can run here. Raises `StageNotResident`."""
        if name not in self._stages:
            raise StageNotResident(f"stage {name} of {self.name} is not resident on this worker")
        return self.graphs[workflow].stage(name)

    def adapted(self, adapter: Adapter | None) -> AbstractContextManager[None]:
        """Inside, the loop runs with `adapter`, or as the base with None. See `AdapterCache.put_on`."""
        denoisers = {name: getattr(self.pipe, name) for name in self._held() if name in DENOISERS}
        return self._adapters.put_on(denoisers, adapter)

    def load(self, stages: tuple[str, ...]) -> None:
        """Make `stages` resident. If a part fails, raises `LoadRefused` and the stages stay as they were.

        Then `origins` says where each part that was not there came from, and `notes` what was amiss.
        """
        for name in stages:
            if name not in self.stage_names:
                raise LoadRefused(f"{self.name} has no stage {name!r}; it has {', '.join(self.stage_names)}")
        wanted = self._needed(set(stages)) - self._held()
        specs = {component: self.pipe.get_component_spec(component) for component in sorted(wanted)}
        try:
            self._components.check_room(
                [(spec, self._stand_ins[name].n_bytes) for name, spec in specs.items()], self.dtype
            )
            parts = {name: self._components.load(spec, self.dtype) for name, spec in specs.items()}
        except LoadRefused as refused:
            raise LoadRefused(f"{self.name}: {refused}") from refused
        for component, part in parts.items():
            setattr(self.pipe, component, part.module)
        self.origins = {component: part.origin for component, part in parts.items()}
        self.notes = tuple(part.note for part in parts.values() if part.note)
        self.part_names |= {part.name for part in parts.values() if part.name is not None}
        self._stages |= set(stages)

    def evict(self, stages: tuple[str, ...]) -> None:
        """Drop `stages`; parts that the remaining stages need stay."""
        self._stages -= set(stages)
        for component in self._held() - self._needed(self._stages):
            self._put_stand_in(component)

    def _needed(self, stages: set[str]) -> set[str]:
        return {
            component
            for graph in self.graphs.values()
            for stage in graph.stages
            if stage.name in stages
            for component in stage.loaded
        }

    def _held(self) -> set[str]:
        return {name for name in self._weights if isinstance(getattr(self.pipe, name), torch.nn.Module)}

    def _put_stand_in(self, component: str) -> None:
        setattr(self.pipe, component, self._stand_ins[component])

    def _stand_in(self, component: str) -> ConfigOnly:
        return stand_in(component, self.pipe.get_component_spec(component), self.dtype)

    def _load_small_parts(self) -> None:
        index = dict(self.pipe.config)
        for component in self.pipe.pretrained_component_names:
            if component in self._weights or index.get(component) is None:
                continue
            spec = self.pipe.get_component_spec(component)
            if spec.pretrained_model_name_or_path is None or spec.type_hint is None:
                continue
            try:
                part = spec.load()
            except (OSError, ValueError) as error:
                raise LoadRefused(f"{component} of {self.name}: {error}") from error
            if isinstance(part, SchedulerMixin):
                part = scheduler_of(part, self.model.sampler)
            setattr(self.pipe, component, part)
