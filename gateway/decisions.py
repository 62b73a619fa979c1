"""The planner as the engine holds it: its state, its view of the model, and the configured placement."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused
from gateway.terms import Terms
from pipelines.catalogue import Model
from pipelines.families import is_guided
from pipelines.graph import StageGraph
from planner.core import decide, initial_state
from planner.deadline import default_deadline_s
from planner.placement import Placement
from planner.types import Effect, ModelView, Observation, PlannerConfig, Shape
from wire.generation import Generation


class Planner:
    """Carries the planner's state from one decision to the next."""

    def __init__(self, config: PlannerConfig, graph: StageGraph) -> None:
        self.model = ModelView(model=graph.model, stages=graph.names, loop_stage=graph.loop_stage)
        self._state = initial_state(config)

    @property
    def models(self) -> Mapping[str, ModelView]:
        return {self.model.model: self.model}

    @property
    def placement(self) -> Placement | None:
        """Which worker has which role and why; None until the first one was there."""
        return self._state.placement

    def decide(self, observation: Observation) -> tuple[Effect, ...]:
        """The effects to carry out now, in order. Not to be called twice in one turn of the loop."""
        self._state, effects = decide(self._state, observation)
        return effects

    def deadline_s(
        self, stages: tuple[str, ...], shape: Shape, steps: int, now_s: float, terms: Terms
    ) -> float:
        """The absolute deadline of a job that arrives now and needs `stages`."""
        return default_deadline_s(
            self._state.profile,
            self.model,
            shape,
            steps,
            now_s,
            terms.slo_ms,
            terms.priority,
            stages=stages,
        )

    def measured_s(self, stage: str, shape: Shape) -> float | None:
        """Seconds of `stage` at this very shape, per step of the loop; None if it never ran like that."""
        records = self._state.profile.records.get((self.model.model, stage), {})
        return records[shape].median_s if shape in records else None

    def estimated_s(self, stage: str, shape: Shape) -> float | None:
        """The same from the nearest shape at which it ever ran; None if it never ran at all."""
        return self._state.profile.estimate_s(self.model, stage, shape, steps=1)

    def homeless(self, workers: Collection[str]) -> tuple[str, ...]:
        """Stages that are pinned to none of `workers`. None without a pinned placement."""
        pinned = self._state.config.pinned
        if not pinned:
            return ()
        held = {stage for worker in workers for stage in pinned[worker]}
        return tuple(stage for stage in self.model.stages if stage not in held)


def shape_of(generation: Generation, model: Model) -> Shape:
    """What decides the cost of a job."""
    return Shape(
        width_px=generation.width_px,
        height_px=generation.height_px,
        frames=generation.num_frames,
        guided=is_guided(model.family_table, generation.guidance_scale),
    )


def planner_config(config: GatewayConfig, graph: StageGraph) -> PlannerConfig:
    """Raises `ConfigRefused` if a pinned stage is none of the model's or a stage has no worker."""
    pinned: dict[str, tuple[str, ...]] = {}
    if config.placement == "colocated":
        pinned = {worker.worker_id: graph.names for worker in config.workers}
    elif config.placement != "auto":
        pinned = dict(config.placement)
        for worker_id, stages in pinned.items():
            for stage in stages:
                if stage not in graph.names:
                    known = ", ".join(graph.names)
                    raise ConfigRefused(
                        "placement", f"{worker_id} is to hold {stage!r}; {graph.model} has {known}"
                    )
        held = {stage for stages in pinned.values() for stage in stages}
        if homeless := [stage for stage in graph.names if stage not in held]:
            raise ConfigRefused("placement", f"no worker holds {', '.join(homeless)}")
    return PlannerConfig(
        pinned=pinned,
        mix_window_s=config.mix_window_s,
        min_dwell_s=config.min_dwell_s,
        min_samples=config.min_samples,
    )
