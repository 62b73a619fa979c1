"""The engine: hears the workers and the supervisor, and takes turns.

One pass of `_turns` makes at most one decision (`turn`), however many messages came before it. Everything
between two awaits is atomic, and no handler awaits, so state needs no locks. What tasks do to their jobs is
`runs`, what requests get is `desk`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.accounts import Accounts
from gateway.config import GatewayConfig
from gateway.decisions import Planner, planner_config
from gateway.desk import Desk
from gateway.encodes import EncodeCache
from gateway.errors import InternalError, OperatorError, StartFailed
from gateway.fleet import Fleet, Worker, WorkerState
from gateway.handoffs import Handoffs
from gateway.job import Job
from gateway.jobs import JobBook
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.runs import Runs
from gateway.schema import warm_up_generation
from gateway.turn import Turn
from gateway.watch import overdue
from pipelines.catalogue import Model, to_entry
from pipelines.graph import StageGraph
from pipelines.tiles import needs_tiles
from wire.codec import PROTOCOL_VERSION
from wire.errors import MessageRefused
from wire.sockets import GatewaySocket
from wire.to_gateway import (
    Described,
    DescribeFailed,
    Goodbye,
    Heartbeat,
    Hello,
    LoadFailed,
    StagesLoaded,
    ToGateway,
)
from wire.to_worker import Describe, Refused, Stop, ToWorker, Welcome

log = logging.getLogger(__name__)

_MAX_OUTBOX = 10_000


class Keeper(Protocol):
    """What the engine asks of the supervisor."""

    def kill(self, worker_id: str) -> None: ...

    def proved(self, worker_id: str) -> None: ...


class Engine:
    """One model on one fleet. `run` must be running for anything to happen.

    `failed` gets the reason when the gateway cannot go on; `ready` is set when the model can first be served.
    """

    def __init__(
        self,
        config: GatewayConfig,
        model: Model,
        *,
        socket: GatewaySocket,
        handoffs: Handoffs,
        journal: Journal,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.name = config.models[0]
        self.model = model
        self.now_s = clock
        self.fleet = Fleet({worker.worker_id: worker.device for worker in config.workers})
        self.book = JobBook(max_queued_jobs=config.max_queued_jobs)
        self.handoffs = handoffs
        self.encodes = EncodeCache(
            handoffs, capacity_bytes=config.encode_cache_bytes, store_bytes=config.store_capacity_bytes
        )
        self.metrics = metrics
        self.ready = asyncio.Event()
        self.failed: asyncio.Future[OperatorError] = asyncio.get_running_loop().create_future()
        self.keeper: Keeper | None = None
        self._config = config
        self._socket = socket
        self._entry = to_entry(model)
        self.accounts = Accounts(journal, metrics)
        self._dirty = asyncio.Event()
        self.desk = Desk(
            model,
            self.book,
            handoffs,
            self.encodes,
            self.accounts,
            changed=self._dirty.set,
            clock=clock,
        )
        self._graph: StageGraph | None = None
        self._turn: Turn | None = None
        self._describing: str | None = None
        self._stopping = False
        self._outbox: asyncio.Queue[tuple[str, ToWorker]] = asyncio.Queue(_MAX_OUTBOX)
        self._timer: asyncio.Handle | None = None
        self._timer_due_s = 0.0
        self._group: asyncio.TaskGroup | None = None
        metrics.watch(self.fleet, self.book, self.encodes, handoffs)

    async def run(self) -> None:
        """Work until cancelled, or until a bug of ours, which `failed` then tells. Frees nothing."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for work in (self._receive, self._send_all, self._turns, self._watch):
                    group.create_task(work(), name=work.__name__)
        except Exception as error:
            log.critical("the engine failed", exc_info=error)
            self._give_up(StartFailed(f"internal error: {error!r}"))
            self.desk.refuse(InternalError("the gateway failed and is stopping"))
            self.desk.end_all()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def not_ready_reason(self) -> str | None:
        """Why the model cannot be served whole right now, None if it can."""
        if self.desk.refusing is not None:
            return self.desk.refusing.message
        if not self.fleet.up():
            return "no worker is up"
        if self._turn is None:
            return f"the stages of {self.name} are not known yet"
        if missing := self._turn.runs.warm_ups.missing(self.fleet):
            return f"{', '.join(missing)} of {self.name} is not loaded and warmed on any worker"
        return None

    def decodes_in_tiles(self, width_px: int, height_px: int) -> bool:
        """Whether a picture of this size is decoded in tiles here, whichever worker does it."""
        bound_bytes = self._config.decode_memory_bytes
        if bound_bytes is None:
            return False
        on_cpu = any(worker.device == "cpu" for worker in self._config.workers)
        frames = self.model.default_frames
        return needs_tiles(self.model, width_px, height_px, frames, bound_bytes, on_cpu=on_cpu)

    def stop_workers(self) -> None:
        """Ask every live worker to leave, and each that comes up from now on."""
        self._stopping = True
        for worker in self.fleet.up():
            self.send(worker.worker_id, Stop())

    # what the supervisor tells

    def worker_started(self, worker_id: str) -> None:
        worker = self.fleet[worker_id]
        worker.started(self.now_s())
        self.accounts.worker_changed(worker, self.now_s())

    def worker_exited(self, worker_id: str, reason: str) -> None:
        worker = self.fleet[worker_id]
        worker.exited(reason)
        self.accounts.worker_exited(worker, reason)
        self._lost(worker, reason)

    def worker_given_up(self, worker_id: str, reason: str) -> None:
        worker = self.fleet[worker_id]
        worker.lost(self.now_s(), for_good=True)
        self.accounts.worker_changed(worker, self.now_s(), reason)
        left = {w.worker_id for w in self.fleet if w.state is not WorkerState.GIVEN_UP}
        homeless = self._turn.planner.homeless(left) if self._turn is not None else ()
        if not left:
            self._give_up(StartFailed(f"no worker can be kept running; {worker_id}: {reason}"))
        elif homeless:
            self._give_up(StartFailed(f"{', '.join(homeless)} was only on {worker_id}: {reason}"))
        self._dirty.set()

    # what `runs` asks

    def send(self, worker_id: str, message: ToWorker) -> None:
        self._outbox.put_nowait((worker_id, message))

    def wake_at(self, at_s: float) -> None:
        """Make a turn at `at_s`. Who still waits then says so again in that turn: one timer will do."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, at_s - self.now_s())
        if self._timer is not None:
            if not self._timer.cancelled() and loop.time() < self._timer_due_s <= when:
                return
            self._timer.cancel()
        # uvloop's handle of a call that is due within a millisecond does not tell when that is
        self._timer, self._timer_due_s = loop.call_at(when, self._dirty.set), when

    def deliver(self, job: Job) -> None:
        assert self._group is not None
        self._group.create_task(self.desk.deliver(job), name=f"deliver {job.job_id}")

    def warmed(self, worker: Worker, stage: str) -> None:
        key = (self.name, stage)
        worker.unwarmed.discard(key)
        worker.resident.add(key)
        log.info("%s: %s is warm", worker.worker_id, stage)
        if self.keeper is not None:
            self.keeper.proved(worker.worker_id)
        if not self.ready.is_set() and self.not_ready_reason() is None:
            assert self._graph is not None
            assert self._turn is not None
            self.desk.open(self._graph, self._turn.planner, self._turn.runs)
            self.ready.set()

    def warm_up_failed(self, worker: Worker, stage: str, reason: str) -> None:
        text = f"the first run of {stage} on {worker.worker_id} failed: {reason}"
        if not self.ready.is_set():
            self._give_up(StartFailed(text))
        else:
            self._kill(worker, text)

    # messages

    async def _receive(self) -> None:
        while True:
            try:
                worker_id, message = await self._socket.receive()
            except MessageRefused as error:
                log.warning("a message was refused: %s", error)
                continue
            self._hear(worker_id, message)

    async def _send_all(self) -> None:
        while True:
            worker_id, message = await self._outbox.get()
            await self._socket.send(worker_id, message)

    def _hear(self, worker_id: str, message: ToGateway) -> None:
        worker = self.fleet.get(worker_id)
        if isinstance(message, Hello):
            self._greet(worker_id, worker, message)
            return
        if worker is None or not worker.is_up:
            # of a process that has died since, or of none of ours
            if self._turn is not None:
                self._turn.runs.discard(message)
            return
        worker.heard(self.now_s())
        match message:
            case Heartbeat():
                worker.beat(message, self.now_s())
                return
            case Described():
                self._described(worker, message)
            case DescribeFailed():
                self._give_up(StartFailed(f"{message.model} cannot be served: {message.reason}"))
            case StagesLoaded():
                self._loaded(worker, message)
            case LoadFailed():
                self._load_failed(worker, message)
            case Goodbye():
                log.info("%s leaves: %s", worker_id, message.reason)
            case _:
                if self._turn is not None:
                    self._turn.runs.heard(worker, message)
        self._dirty.set()

    def _greet(self, worker_id: str, worker: Worker | None, hello: Hello) -> None:
        reason = None
        if worker is None:
            reason = f"there is no worker {worker_id!r} in this fleet"
        elif hello.protocol_version != PROTOCOL_VERSION:
            reason = f"{worker_id} speaks protocol {hello.protocol_version}, the gateway {PROTOCOL_VERSION}"
            self._give_up(StartFailed(reason))
        elif self._stopping:
            reason = "the gateway is stopping"
        if worker is None or reason is not None:
            log.warning("a worker was refused: %s", reason)
            self.send(worker_id, Refused(reason=reason or ""))
            return
        if worker.is_up:
            self._lost(worker, "another process took its place")
        worker.greeted(hello, self.now_s())
        log.info("%s is up: pid %d, %s, %d threads", worker_id, hello.pid, hello.device_name, hello.threads)
        self.accounts.worker_changed(worker, self.now_s())
        self.send(worker_id, Welcome(heartbeat_interval_s=self._config.heartbeat_interval_s))
        self._describe()
        self._dirty.set()

    def _describe(self) -> None:
        """Ask one worker for the stage graph, again if the one that was asked is gone."""
        if self._graph is None and self._describing is None and (up := self.fleet.up()):
            self._describing = up[0].worker_id
            self.send(self._describing, Describe(model=self.name, entry=self._entry))

    def _described(self, worker: Worker, message: Described) -> None:
        if self._graph is not None or message.model != self.name:
            return
        try:
            graph = msgspec.convert(message.graphs, dict[str, StageGraph])["text"]
            planner = Planner(planner_config(self._config, graph), graph)
        except (msgspec.ValidationError, KeyError, StopIteration) as error:
            self._give_up(StartFailed(f"{worker.worker_id} described {self.name} wrongly: {error!r}"))
            return
        except OperatorError as error:
            self._give_up(error)
            return
        self._graph = graph
        runs = Runs(
            self,
            self.desk,
            graph=graph,
            model=self.model,
            warm_up=warm_up_generation(self.model, tiled=self.decodes_in_tiles),
            checkpoint_every=self._config.checkpoint_every,
            fleet=self.fleet,
            handoffs=self.handoffs,
            encodes=self.encodes,
            accounts=self.accounts,
        )
        self._turn = Turn(
            self,
            planner,
            runs,
            model=self.model,
            fleet=self.fleet,
            book=self.book,
            accounts=self.accounts,
        )
        log.info("%s has stages %s", self.name, ", ".join(graph.names))

    def _loaded(self, worker: Worker, message: StagesLoaded) -> None:
        worker.resident_bytes = message.resident_bytes
        keys = {(message.model, stage) for stage in message.stages} & worker.asked
        worker.asked -= keys
        worker.unwarmed |= keys
        log.info("%s: loaded %s in %.2f s", worker.worker_id, ", ".join(message.stages), message.load_s)

    def _load_failed(self, worker: Worker, message: LoadFailed) -> None:
        text = f"{worker.worker_id} cannot load {', '.join(message.stages)}: {message.reason}"
        if not self.ready.is_set():
            self._give_up(StartFailed(text))
        else:
            # it stays asked for, or the planner would ask again at once and for ever; a restart clears it
            log.error("%s", text)

    def _lost(self, worker: Worker, reason: str) -> None:
        if self._describing == worker.worker_id:
            self._describing = None
        tasks = worker.lost(self.now_s())
        self.accounts.worker_changed(worker, self.now_s(), reason)
        if self._turn is not None:
            for task in tasks:
                self._turn.runs.worker_lost(worker.worker_id, task, reason)
        self._describe()
        self._dirty.set()

    # decisions

    async def _turns(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._take_turn()

    def _take_turn(self) -> None:
        if self._turn is None or self._stopping or self.failed.done():
            return
        if not self.ready.is_set() and any(w.state is WorkerState.STARTING for w in self.fleet):
            # placing the first worker alone would load everything on it; the others are about to come
            return
        self._turn.take(self.now_s())

    # health

    async def _watch(self) -> None:
        interval_s = self._config.heartbeat_interval_s
        while True:
            before_s = self.now_s()
            await asyncio.sleep(interval_s)
            if self.now_s() - before_s > interval_s + self._config.heartbeat_timeout_s / 2:
                # it was us who stood still (a suspended machine); what workers said meanwhile is not read yet
                continue
            self.check_workers()

    def check_workers(self) -> None:
        """Kill the workers that are silent or stuck."""
        planner = self._turn.planner if self._turn is not None else None
        for worker, reason in overdue(self.fleet, planner, self._config, self.now_s()):
            self._kill(worker, reason)

    def _kill(self, worker: Worker, reason: str) -> None:
        self.accounts.worker_killed(worker, reason, self.now_s())
        worker.condemned = True
        if self.keeper is not None:
            self.keeper.kill(worker.worker_id)

    def _give_up(self, error: OperatorError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
