"""How a model comes: a worker describes it, the planner places it, workers load it, each stage is run once.

A profile that is kept is read before the model is placed, and a worker that is to measure one is told so
before it loads. Which worker loads what and when is the planner's decision; here is what the answers mean.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection

import msgspec

from gateway.config import GatewayConfig
from gateway.decisions import check_placement, shape_of
from gateway.errors import ConfigRefused, OperatorError, StartFailed
from gateway.fleet import Worker
from gateway.measuring import Measuring
from gateway.schema import warm_up_generation
from gateway.served import ServedModel, Status
from gateway.surroundings import Surroundings, make_runs
from gateway.warmup import Listener
from pipelines.catalogue import Model, to_entry
from pipelines.graph import StageGraph
from pipelines.tiles import needs_tiles
from wire.to_gateway import Described, DescribeFailed, LoadFailed, StagesLoaded
from wire.to_worker import Describe

log = logging.getLogger(__name__)

Fail = Callable[[ServedModel, OperatorError], None]
"""The model cannot be served; the error is what ends the gateway where it cannot go on without the model."""


def decodes_in_tiles(config: GatewayConfig, model: Model, width_px: int, height_px: int) -> bool:
    """Whether a picture of this size is decoded in tiles here, whichever worker does it."""
    bound_bytes = config.decode_memory_bytes
    if bound_bytes is None:
        return False
    on_cpu = any(worker.device == "cpu" for worker in config.workers)
    return needs_tiles(model, width_px, height_px, model.default_frames, bound_bytes, on_cpu=on_cpu)


class Arrivals:
    """Steps that are taken as soon as they can be. `listener` hears of first runs."""

    def __init__(self, around: Surroundings, measuring: Measuring, listener: Listener, fail: Fail) -> None:
        self._around = around
        self._measuring = measuring
        self._listener = listener
        self._fail = fail

    def advance(self, models: Collection[ServedModel], *, started: bool) -> None:
        """The next steps, as far as they can be taken now. `started`: those of the start were all ready."""
        self._describe(models)
        here = [served for served in models if served.graph is not None and served.leaving is None]
        known = {served.name for served in here if self._measuring.advance(served.name, served.model)}
        if started or not any(served.at_start and served.name not in known for served in models):
            self._place([served for served in here if served.name in known], started=started)

    def heard(
        self,
        served: ServedModel,
        worker: Worker,
        message: Described | DescribeFailed | StagesLoaded | LoadFailed,
    ) -> None:
        """An answer about a model that is not leaving."""
        match message:
            case Described() if served.described_by == worker.worker_id:
                self._described(served, worker, message)
            case DescribeFailed() if served.described_by == worker.worker_id:
                self._fail(served, StartFailed(f"{served.name} cannot be served: {message.reason}"))
            case StagesLoaded():
                worker.loaded({(served.name, stage) for stage in message.stages} & worker.asked)
                if any(origin != "held" for origin in message.origins.values()):
                    self._around.planner.loaded(served.name, message.stages, message.load_s)
                self._around.accounts.loaded(worker, message, self._around.clock())
            case LoadFailed():
                self._load_failed(served, worker, message)

    def _describe(self, models: Collection[ServedModel]) -> None:
        """Ask a worker for the stages of each model that has none yet, one that is free if there is one."""
        for served in models:
            wanted = served.status is Status.LOADING and served.leaving is None
            if not wanted or served.graph is not None or served.described_by is not None:
                continue
            if up := self._around.fleet.up():
                worker = next((worker for worker in up if worker.is_free), up[0])
                served.described_by = worker.worker_id
                worker.unanswered += 1
                entry = to_entry(served.model)
                self._around.send(worker.worker_id, Describe(model=served.name, entry=entry))

    def _described(self, served: ServedModel, worker: Worker, message: Described) -> None:
        served.described_by = None
        try:
            graph = msgspec.convert(message.graphs, dict[str, StageGraph])["text"]
            log.info("%s has stages %s, a loop in %s", served.name, ", ".join(graph.names), graph.loop_stage)
        except (msgspec.ValidationError, KeyError, StopIteration) as error:
            text = f"{worker.worker_id} described {served.name} wrongly: {error!r}"
            self._fail(served, StartFailed(text))
            return
        served.graph, served.weight_bytes = graph, message.weight_bytes

    def _place(self, models: Collection[ServedModel], *, started: bool) -> None:
        """Let the planner place what is described: the models named at start together, then each at once."""
        new = [
            (served, served.graph) for served in models if served.graph is not None and served.runs is None
        ]
        for served, graph in new:
            tiled = functools.partial(decodes_in_tiles, self._around.config, served.model)
            first = warm_up_generation(served.model, tiled=tiled)
            try:
                if not started:
                    check_placement(self._around.config, [described for _, described in new])
                self._around.planner.join(graph, served.weight_bytes, shape_of(first, served.model))
            except ConfigRefused as error:
                self._fail(served, error)
                continue
            served.runs = make_runs(graph, served.model, self._around, self._listener, first=first)

    def _load_failed(self, served: ServedModel, worker: Worker, message: LoadFailed) -> None:
        keys = {(served.name, stage) for stage in message.stages} & worker.asked
        text = f"{worker.worker_id} cannot load {', '.join(message.stages)}: {message.reason}"
        if keys and served.status is Status.LOADING:
            self._fail(served, StartFailed(text))
        elif keys:
            log.error("%s", text)
            worker.refused(keys)
