"""Every model of the gateway: what is served, what is to be, and what becomes of one that fails.

How one comes is `arrivals`, how one goes `departures`. What goes wrong with one model is its own: the gateway
ends only while the models that were named at start have never all been ready.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Iterator
from typing import Protocol

from gateway.arrivals import Arrivals, decodes_in_tiles
from gateway.departures import Departures
from gateway.errors import (
    ModelFailed,
    ModelLeaving,
    ModelNotFound,
    OperatorError,
    StartFailed,
)
from gateway.fleet import Worker, WorkerState
from gateway.jobs import Outcome
from gateway.measuring import Measuring, ProfileMessage
from gateway.profiles import ProfileFolder, default_folder
from gateway.runs import Runs
from gateway.served import Event, ServedModel, Status
from gateway.surroundings import Surroundings
from pipelines.catalogue import Catalogue
from pipelines.errors import UnknownModel
from planner.types import StageKey
from wire.to_gateway import (
    Described,
    DescribeFailed,
    LoadFailed,
    ModelForgotten,
    ProfileFailed,
    ProfileMeasured,
    ProfileProgress,
    StagesEvicted,
    StagesLoaded,
)

log = logging.getLogger(__name__)

MAX_LOST = 2
"""Workers lost while they load a model that end its loading: fewer than end a worker."""

ModelMessage = (
    Described | DescribeFailed | StagesLoaded | LoadFailed | StagesEvicted | ModelForgotten | ProfileMessage
)


class Keeper(Protocol):
    """Who has the workers started anew and ends the gateway: the engine."""

    def kill(self, worker: Worker, reason: str) -> None: ...

    def proved(self, worker: Worker) -> None: ...

    def give_up(self, error: OperatorError) -> None: ...


class Roster:
    """Models by name, in the order in which they came. `started`: all named at start have been ready."""

    def __init__(self, catalogue: Catalogue, around: Surroundings, keeper: Keeper) -> None:
        """Raises `UnknownModel` if the catalogue lacks one that the configuration names."""
        self.started = asyncio.Event()
        self._catalogue = catalogue
        self._around = around
        self._keeper = keeper
        self._departures = Departures(around)
        self._measuring = Measuring(
            around.config.profile,
            ProfileFolder(around.config.profiles or default_folder(os.environ)),
            around.fleet,
            around.planner,
            bound_s=around.config.profile_bound_s,
            kernels=around.config.kernels,
            tiled=functools.partial(decodes_in_tiles, around.config),
            send=around.send,
            spawn=around.spawn,
            changed=around.changed,
        )
        self._arrivals = Arrivals(around, self._measuring, self, self._fail)
        self._models = {
            name: ServedModel(name, catalogue[name], at_start=True) for name in around.config.models
        }

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(tuple(self._models.values()))

    def get(self, name: str) -> ServedModel:
        """Whatever its status. Raises `ModelNotFound`."""
        if (served := self._models.get(name)) is None:
            raise self._not_found(name)
        return served

    def find(self, name: str | None) -> ServedModel:
        """The model that a request names, or else the first named at start. Raises `ModelNotFound`."""
        asked = self._around.config.models[0] if name is None else name
        served = self._models.get(asked)
        if served is None or served.status in (Status.UNLOADING, Status.FAILED):
            raise self._not_found(asked)
        return served

    def runs(self, name: str) -> Runs:
        """The tasks of a model of which some worker has one, or some job is open."""
        runs = self._models[name].runs
        assert runs is not None
        return runs

    def placed(self) -> list[Runs]:
        """The tasks of every model whose stages are known."""
        return [served.runs for served in self if served.runs is not None]

    def not_ready_reason(self) -> str | None:
        """Why not all models named at start, of those not unloaded, can be served whole now; else None."""
        return next((reason for s in self if s.at_start and (reason := self._not_ready_reason(s))), None)

    # what the operator asks

    def load(self, name: str) -> tuple[ServedModel, bool]:
        """Serve a model of the catalogue, again if it failed. False: it is served or loading already.

        Raises `ModelNotFound`, `ModelLeaving`, and what new requests are refused with.
        """
        if self._around.desk.refusing is not None:
            raise self._around.desk.refusing
        served = self._models.get(name)
        if served is None:
            try:
                served = ServedModel(name, self._catalogue[name])
            except UnknownModel as error:
                raise ModelNotFound(str(error), param="model") from None
            self._models[name] = served
        elif served.status is Status.UNLOADING:
            raise ModelLeaving(f"{name} is being unloaded; when it is gone it can be loaded again")
        elif served.status is Status.FAILED:
            served.advance(Event.LOAD)
            served.n_lost = 0
        else:
            return served, False
        self._changed(served)
        return served, True

    def unload(self, name: str) -> ServedModel:
        """Serve a model no more: its open requests have a while, then it goes from every worker.

        Raises `ModelNotFound`, and what new requests are refused with.
        """
        if self._around.desk.refusing is not None:
            raise self._around.desk.refusing
        served = self.get(name)
        if served.status is not Status.UNLOADING:
            served.advance(Event.UNLOAD)
            served.at_start = False
            self._departures.begin(served, self._around.clock() + self._around.config.drain_timeout_s)
            self._changed(served)
            self._check_started()
        return served

    # what the engine tells

    def advance(self, now_s: float) -> None:
        """Whatever can be done now for models that come or go. For the start of every turn."""
        for served in self:
            if served.leaving is not None:
                self._measuring.forget(served.name)
            if served.leaving is not None and self._departures.advance(served, now_s):
                del self._models[served.name]
                self._around.accounts.model_changed(served.name, "gone", "", now_s)
        self._arrivals.advance([*self], started=self.started.is_set())
        for served in self:
            self._check_ready(served)

    def review(self) -> None:
        """A stage that could not be made resident where it belongs will not be. For the end of every turn."""
        workers = list(self._around.fleet)
        coming = (WorkerState.STARTING, WorkerState.DEAD)
        if not any(worker.failed for worker in workers):
            return
        if any(w.asked or w.unwarmed or w.state in coming for w in workers):
            return
        for served in self:
            if served.status is Status.READY and served.runs is not None:
                for stage in served.runs.warm_ups.missing():
                    if where := [w.worker_id for w in workers if (served.name, stage) in w.failed]:
                        text = f"{stage} cannot be loaded any more on {', '.join(where)}"
                        self._fail(served, StartFailed(text))
                        break

    def heard(self, worker: Worker, message: ModelMessage) -> None:
        """A worker's word about a model. What it says of one that leaves is void, until it forgot it."""
        if isinstance(message, StagesLoaded | StagesEvicted | ModelForgotten):
            self._around.fleet.holds(worker, message.resident_bytes, message.host_bytes)
        if isinstance(message, Described | DescribeFailed | ModelForgotten | ProfileMeasured | ProfileFailed):
            worker.unanswered = max(0, worker.unanswered - 1)
        served = self._models.get(message.model)
        if served is None or isinstance(message, StagesEvicted):
            return
        if isinstance(message, ModelForgotten):
            self._departures.forgotten(served, worker.worker_id)
        elif served.leaving is None:
            if isinstance(message, ProfileProgress | ProfileMeasured | ProfileFailed):
                self._measuring.heard(worker, message)
            else:
                self._arrivals.heard(served, worker, message)

    def worker_greeted(self, worker: Worker) -> None:
        """A new process of it is up."""
        self._measuring.greeted(worker)

    def worker_lost(self, worker: Worker, reason: str) -> None:
        """Its process is gone; `worker` is still as it was."""
        self._measuring.worker_lost(worker)
        for served in self:
            self._departures.forgotten(served, worker.worker_id)
            was_at_it = served.described_by == worker.worker_id or worker.is_loading(served.name)
            if served.described_by == worker.worker_id:
                served.described_by = None
            if not was_at_it or served.status is not Status.LOADING or self._is_at_start(served):
                continue
            served.n_lost += 1
            if served.n_lost >= MAX_LOST:
                last = f"{worker.worker_id}: {reason}"
                text = f"{served.n_lost} workers were lost while they loaded it, {last}"
                self._fail(served, StartFailed(text))

    def worker_given_up(self, worker_id: str, reason: str) -> None:
        """It will not come back: a stage that only it may hold has no place."""
        left = {w.worker_id for w in self._around.fleet if w.state is not WorkerState.GIVEN_UP}
        for served in self:
            if homeless := self._around.planner.homeless(served.name, left):
                text = f"{', '.join(homeless)} was only on {worker_id}: {reason}"
                if served.at_start:
                    self._keeper.give_up(StartFailed(text))
                else:
                    self._fail(served, StartFailed(text))

    # what warm-ups tell

    def warmed(self, worker: Worker, key: StageKey) -> None:
        worker.warmed(key)
        log.info("%s: %s is warm", worker.worker_id, _shown({key}))
        self._keeper.proved(worker)
        served = self._models[key[0]]
        served.sick.discard((worker.worker_id, key[1]))
        self._check_ready(served)

    def warm_up_failed(self, worker: Worker, key: StageKey, reason: str) -> None:
        served = self._models[key[0]]
        text = f"the first run of {key[1]} on {worker.worker_id} failed: {reason}"
        sick = (worker.worker_id, key[1])
        if served.status is Status.LOADING:
            self._fail(served, StartFailed(text))
        elif sick in served.sick:
            # a new process did not help, and other models have work for this one
            log.error("%s", text)
            worker.refused({key})
        else:
            served.sick.add(sick)
            self._keeper.kill(worker, text)

    def _not_ready_reason(self, served: ServedModel) -> str | None:
        measuring = self._measuring.missing(served.name) if served.status is Status.LOADING else None
        return served.not_ready_reason() or measuring

    def _check_ready(self, served: ServedModel) -> None:
        if served.status is Status.LOADING and self._not_ready_reason(served) is None:
            served.advance(Event.LOADED)
            self._changed(served)
            self._check_started()

    def _is_at_start(self, served: ServedModel) -> bool:
        return served.at_start and not self.started.is_set()

    def _fail(self, served: ServedModel, error: OperatorError) -> None:
        reason = str(error)
        if self._is_at_start(served):
            self._keeper.give_up(error)
        elif served.status in (Status.LOADING, Status.READY):
            log.error("%s failed: %s", served.name, reason)
            served.advance(Event.FAIL, reason)
            ended = ModelFailed(f"{served.name} can no longer be served: {reason}")
            self._around.desk.end_model(served.name, Outcome.FAILED, ended)
            self._departures.begin(served, self._around.clock())
            self._changed(served)

    def _changed(self, served: ServedModel) -> None:
        now_s = self._around.clock()
        self._around.accounts.model_changed(served.name, served.status, served.reason, now_s)
        self._around.changed()

    def _check_started(self) -> None:
        if all(served.status is not Status.LOADING for served in self if served.at_start):
            self.started.set()

    def _not_found(self, asked: str) -> ModelNotFound:
        names = ", ".join(s.name for s in self if s.status is Status.READY) or "none"
        return ModelNotFound(f"the model {asked!r} is not served here; served: {names}", param="model")


def _shown(keys: set[StageKey]) -> str:
    return ", ".join(f"{stage} of {model}" for model, stage in sorted(keys))
