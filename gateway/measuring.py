"""Which models have to be measured on which kinds of device, and how far that is. No figures here.

Each model is measured once on one worker of each kind, unless its profile was kept by an earlier start. The
worker is told before it is told to load anything of the model; the others go on. What cannot be measured is
served without: the profile is then learnt from what runs. With what stages cost comes which way of a call is
the fastest, and every worker of the kind is told that before it has tasks of requests.

              READING -- kept --> DONE
                 |
   lost          v     told              measured, failed, lost twice
  .---------> WANTED -----> MEASURING ----------------------> DONE
  `----------------------------'
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from gateway.config import ProfileMode
from gateway.decisions import Planner
from gateway.fleet import Fleet, Worker
from gateway.orders import Send
from gateway.profile_table import fits
from gateway.profiles import BATCHES, Key, ProfileFolder, generations_to_measure, key_of, refusal
from pipelines.catalogue import Model, to_entry
from planner.measurements import Measurements
from wire.generation import Generation
from wire.to_gateway import ProfileFailed, ProfileMeasured, ProfileProgress
from wire.to_worker import MeasureProfile, UseKernels

log = logging.getLogger(__name__)

MAX_LOST = 2
"""Workers lost while they measure a model that end the attempt."""

Chosen = dict[str, tuple[Literal["triton", "torch"], tuple[int, ...]]]
"""How calls are made, as `Measurements.kernels`."""

ProfileMessage = ProfileProgress | ProfileMeasured | ProfileFailed


class Step(enum.Enum):
    """How far the measuring of one model on one kind of device is."""

    READING = enum.auto()
    WANTED = enum.auto()
    MEASURING = enum.auto()
    DONE = enum.auto()


@dataclass(slots=True, eq=False)
class _Pair:
    """One model on one kind of device. `worker_id` measures it; `n_lost` died of it."""

    model: Model
    generations: tuple[Generation, ...]
    step: Step
    key: Key | None = None
    worker_id: str = ""
    n_lost: int = 0


class Measuring:
    """`changed` is called when a model may be placed or be ready that could not; `spawn` runs file I/O."""

    def __init__(
        self,
        mode: ProfileMode,
        folder: ProfileFolder,
        fleet: Fleet,
        planner: Planner,
        *,
        bound_s: float,
        kernels: str,
        tiled: Callable[[Model, int, int], bool],
        send: Send,
        spawn: Callable[[Coroutine[None, None, None]], None],
        changed: Callable[[], None],
    ) -> None:
        self._mode = mode
        self._folder = folder
        self._fleet = fleet
        self._planner = planner
        self._bound_s = bound_s
        self._kernels = kernels
        self._chosen: dict[str, Chosen] = {}
        self._tiled = tiled
        self._send = send
        self._spawn = spawn
        self._changed = changed
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def advance(self, name: str, model: Model) -> bool:
        """Read or order what is missing of a model that is served or is to be.

        False until each kind of device that is up has its profile, or a worker that was told to measure it.
        """
        if self._mode == "off":
            return True
        for kind in {worker.kind for worker in self._fleet.up() if not worker.condemned}:
            pair = self._pairs.get((name, kind)) or self._begin(name, model, kind)
            if pair.step is Step.WANTED:
                self._order(name, kind, pair)
        steps = [pair.step for (measured, _), pair in self._pairs.items() if measured == name]
        return Step.READING not in steps

    def missing(self, name: str) -> str | None:
        """What is still to be measured before the model is ready, None if nothing is."""
        kinds = {worker.kind for worker in self._fleet.up()}
        for (measured, kind), pair in self._pairs.items():
            if measured == name and kind in kinds and pair.step is not Step.DONE:
                where = f"on {pair.worker_id}" if pair.worker_id else f"for {kind}"
                return f"the stages of {name} are being measured {where}"
        return None

    def heard(self, worker: Worker, message: ProfileMessage) -> None:
        """A worker's word. What it says of a model that it was not told to measure is ignored."""
        pair = self._pairs.get((message.model, worker.kind))
        if pair is None or pair.step is not Step.MEASURING or pair.worker_id != worker.worker_id:
            return
        match message:
            case ProfileProgress():
                log.info("%s: measuring %s: %s", worker.worker_id, message.model, message.text)
            case ProfileFailed():
                self._done(pair)
                _without(message.model, f"{worker.worker_id} could not measure it: {message.reason}")
            case ProfileMeasured():
                self._done(pair)
                self._measured(worker, pair, message)

    def worker_lost(self, worker: Worker) -> None:
        """Its process is gone; `worker` is still as it was."""
        for (name, _), pair in self._pairs.items():
            if pair.step is not Step.MEASURING or pair.worker_id != worker.worker_id:
                continue
            pair.n_lost += 1
            pair.worker_id = ""
            if pair.n_lost < MAX_LOST:
                pair.step = Step.WANTED
            else:
                self._done(pair)
                _without(name, f"{pair.n_lost} workers were lost while they measured it")

    def greeted(self, worker: Worker) -> None:
        """A new process, which has to be told how to make its calls before it has any to make."""
        if chosen := self._chosen.get(worker.kind):
            self._send(worker.worker_id, UseKernels(chosen=dict(chosen)))

    def forget(self, name: str) -> None:
        """The model goes; should it come back, its profile is looked for again."""
        for pair in [pair for pair in self._pairs if pair[0] == name]:
            del self._pairs[pair]

    def _begin(self, name: str, model: Model, kind: str) -> _Pair:
        def tiled(width_px: int, height_px: int) -> bool:
            return self._tiled(model, width_px, height_px)

        generations = generations_to_measure(model, tiled=tiled)
        pair = self._pairs[name, kind] = _Pair(model, generations, Step.READING)
        self._spawn(self._read(name, kind, pair))
        return pair

    async def _read(self, name: str, kind: str, pair: _Pair) -> None:
        pair.key = await asyncio.to_thread(key_of, name, pair.model, kind, pair.generations, self._kernels)
        kept = None if self._mode == "fresh" else await asyncio.to_thread(self._folder.read, pair.key)
        if pair.step is Step.READING:
            pair.step = Step.WANTED if kept is None else Step.DONE
        if kept is not None and self._pairs.get((name, kind)) is pair:
            log.info("%s on %s: its profile is read from %s", name, kind, self._folder.path)
            self._planner.measured(kept)
            self._learn(kind, kept.kernels)
        self._changed()

    def _order(self, name: str, kind: str, pair: _Pair) -> None:
        """Tell the worker of that kind which has the least to do."""
        can = [
            worker
            for worker in self._fleet.up()
            if worker.kind == kind and not worker.condemned and not self._measures(worker)
        ]
        if not can:
            return
        worker = min(can, key=lambda w: (not w.is_free, bool(w.asked), w.worker_id))
        pair.step, pair.worker_id = Step.MEASURING, worker.worker_id
        worker.unanswered += 1
        log.info("%s: measuring %s, about %.0f s", worker.worker_id, name, self._bound_s)
        self._send(
            worker.worker_id,
            MeasureProfile(
                model=name,
                entry=to_entry(pair.model),
                generations=pair.generations,
                batches=BATCHES,
                bound_s=self._bound_s,
            ),
        )

    def _measures(self, worker: Worker) -> bool:
        return any(
            pair.step is Step.MEASURING and pair.worker_id == worker.worker_id
            for pair in self._pairs.values()
        )

    def _measured(self, worker: Worker, pair: _Pair, message: ProfileMeasured) -> None:
        try:
            found = msgspec.convert(message.profile, Measurements)
            reason = refusal(found)
        except msgspec.ValidationError as error:
            reason = str(error)
        if reason is not None:
            _without(message.model, f"{worker.worker_id} measured it wrongly: {reason}")
            return
        found = replace(found, model=message.model, device=worker.kind)
        log.info("%s: %s is measured", worker.worker_id, message.model)
        for line in fits(found):
            log.info("%s on %s: %s", found.model, found.device, line)
        self._planner.measured(found)
        self._learn(worker.kind, found.kernels)
        assert pair.key is not None
        self._spawn(self._write(pair.key, found))

    def _learn(
        self, kind: str, found: Mapping[str, tuple[Literal["triton", "torch"], tuple[int, ...]]]
    ) -> None:
        """Tell every worker of the kind what is new. What was chosen stays: another choice has other bits."""
        chosen = self._chosen.setdefault(kind, {})
        new = {key: choice for key, choice in found.items() if key not in chosen}
        chosen |= new
        for worker in self._fleet.up():
            if new and worker.kind == kind:
                self._send(worker.worker_id, UseKernels(chosen=new))

    async def _write(self, key: Key, found: Measurements) -> None:
        if (file := await asyncio.to_thread(self._folder.write, key, found)) is not None:
            log.info("the profile of %s is kept as %s", key.model, file)

    def _done(self, pair: _Pair) -> None:
        pair.step = Step.DONE
        pair.worker_id = ""
        self._changed()


def _without(name: str, reason: str) -> None:
    log.error("%s is served without a profile: %s", name, reason)
