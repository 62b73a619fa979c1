"""The planner as the engine holds it: its state, its view of the models, and the configured placement."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused
from gateway.recording import Recording
from gateway.terms import Terms
from pipelines.catalogue import Model
from pipelines.families import is_guided
from pipelines.graph import StageGraph
from planner.core import decide, initial_state
from planner.deadline import default_deadline_s
from planner.expected import Expected, expected
from planner.measurements import Measurements
from planner.placement import Placement
from planner.types import Effect, ModelView, Observation, Parts, PlannerConfig, Shape
from wire.generation import Generation


class Planner:
    """Carries the planner's state from one decision to the next. `models` are those that it places.

    `decided` is told what each decision took, in seconds of this thread's processor time, `recording`
    everything that the state is made of.
    """

    def __init__(
        self,
        config: GatewayConfig,
        decided: Callable[[float], None] = lambda _: None,
        recording: Recording | None = None,
    ) -> None:
        self._decided = decided
        self._recording = recording or Recording(None)
        self._seen: Observation | None = None
        self.models: Mapping[str, ModelView] = {}
        self._kinds: frozenset[str] = frozenset()
        self._config = config
        self._state = initial_state(_planner_config(config, ()))
        self._recording.began(self._state.config)

    def join(self, graph: StageGraph, weight_bytes: Mapping[str, int], usual: Shape | None = None) -> None:
        """Place this model too from now on. Raises `ConfigRefused` if one of its stages is pinned nowhere.

        `weight_bytes`: of its stages, as far as they are known. `usual`: what is asked of it by default.
        """
        held = {stage for stages in self._state.config.pinned.values() for stage in stages}
        if isinstance(self._config.placement, dict) and not held.issuperset(graph.names):
            homeless = ", ".join(stage for stage in graph.names if stage not in held)
            raise ConfigRefused("placement", f"no worker holds {homeless} of {graph.model}")
        view = ModelView(
            model=graph.model,
            stages=graph.names,
            loop_stage=graph.loop_stage,
            weight_bytes={stage: weight_bytes[stage] for stage in graph.names if stage in weight_bytes},
            usual=usual,
        )
        for known in self._state.profile.measurements.values():
            view = _as_measured(view, known)
        self._place({**self.models, graph.model: view})

    def leave(self, model: str) -> None:
        """Place this model no more. What is known of its cost stays, should it come back."""
        self._place({name: view for name, view in self.models.items() if name != model})

    def measured(self, new: Measurements) -> None:
        """What a model costs on a kind of device was measured, or read."""
        self._state = replace(self._state, profile=self._state.profile.with_measured(new))
        self._recording.measured(new)
        if (view := self.models.get(new.model)) is not None:
            self._place({**self.models, new.model: _as_measured(view, new)})

    def loaded(self, model: str, stages: Collection[str], load_s: float) -> None:
        """These stages were loaded together just now; each took its part by its weights."""
        view = self.models.get(model)
        if view is None or not (math.isfinite(load_s) and load_s >= 0):
            return
        weights = {stage: view.weight_bytes.get(stage, 0) for stage in stages}
        total_bytes = sum(weights.values())
        if total_bytes > 0:
            new = {stage: load_s * n_bytes / total_bytes for stage, n_bytes in weights.items()}
            self._place({**self.models, model: replace(view, load_s={**view.load_s, **new})})

    @property
    def placement(self) -> Placement | None:
        """Which worker has which role and why; None until the first one was there."""
        return self._state.placement

    def decide(self, observation: Observation) -> tuple[Effect, ...]:
        """The effects to carry out now, in order. Not to be called twice in one turn of the loop."""
        self._kinds = frozenset(worker.device for worker in observation.workers)
        self._seen = observation
        began_s = time.thread_time()
        self._state, effects = decide(self._state, observation)
        self._decided(time.thread_time() - began_s)
        self._recording.decided(observation, effects)
        return effects

    @property
    def config(self) -> PlannerConfig:
        """How it decides."""
        return self._state.config

    def expected(self) -> Expected | None:
        """What is asked for, as of the last decision; None before the first one. Takes milliseconds."""
        return None if self._seen is None else expected(self._state, self._seen)

    def deadline_s(
        self, model: str, stages: tuple[str, ...], shape: Shape, steps: int, now_s: float, terms: Terms
    ) -> float:
        """The absolute deadline of a job that arrives now and needs `stages`."""
        return default_deadline_s(
            self._state.profile,
            self._kinds,
            self.models[model],
            shape,
            steps,
            now_s,
            terms.slo_ms,
            terms.priority,
            stages=stages,
        )

    def measured_s(self, device: str, model: str, stage: str, shape: Shape) -> float | None:
        """Seconds of `stage` at this very shape on that kind of device, per step of the loop.

        None if it never ran like that.
        """
        return self._state.profile.seen_s(device, model, stage, shape)

    def estimated_s(self, device: str, model: str, stage: str, shape: Shape) -> float | None:
        """The same from the shapes at which it ever ran; None if it never ran or is not placed."""
        view = self.models.get(model)
        return None if view is None else self._state.profile.stage_s(device, view, stage, shape, steps=1)

    def homeless(self, model: str, workers: Collection[str]) -> tuple[str, ...]:
        """Stages of `model` that are pinned to none of `workers`. None without a pinned placement."""
        pinned = self._state.config.pinned
        if not pinned or model not in self.models:
            return ()
        held = {stage for worker in workers for stage in pinned[worker]}
        return tuple(stage for stage in self.models[model].stages if stage not in held)

    def _place(self, models: Mapping[str, ModelView]) -> None:
        self.models = models
        self._state = replace(self._state, config=_planner_config(self._config, models.values()))
        self._recording.configured(self._state.config)


def _as_measured(view: ModelView, known: Measurements) -> ModelView:
    if known.model != view.model:
        return view
    return replace(
        view,
        weight_bytes={**view.weight_bytes, **known.weight_bytes},
        load_s={**known.load_s, **view.load_s},
    )


def shape_of(generation: Generation, model: Model) -> Shape:
    """What decides the cost of a job."""
    return Shape(
        width_px=generation.width_px,
        height_px=generation.height_px,
        frames=generation.num_frames,
        guided=is_guided(model.family_table, generation.guidance_scale),
    )


def check_placement(config: GatewayConfig, graphs: Collection[StageGraph]) -> None:
    """Raises `ConfigRefused` if a pinned stage is none of any model's."""
    if not isinstance(config.placement, dict):
        return
    for worker_id, stages in config.placement.items():
        for stage in stages:
            if not any(stage in graph.names for graph in graphs):
                known = "; ".join(f"{graph.model} has {', '.join(graph.names)}" for graph in graphs)
                raise ConfigRefused("placement", f"{worker_id} is to hold {stage!r}; {known}")


def _planner_config(config: GatewayConfig, models: Iterable[ModelView]) -> PlannerConfig:
    pinned: dict[str, tuple[str, ...]] = {}
    if config.placement == "colocated":
        every = tuple(dict.fromkeys(stage for view in models for stage in view.stages))
        pinned = {worker.worker_id: every for worker in config.workers}
    elif config.placement != "auto":
        pinned = dict(config.placement)
    return PlannerConfig(
        pinned=pinned,
        mix_window_s=config.mix_window_s,
        min_dwell_s=config.min_dwell_s,
        min_samples=config.min_samples,
        parts=Parts(**dict.fromkeys(config.planner_off, False)),
        policy=config.policy,
    )
