"""The engine: hears the workers and the supervisor, and takes turns.

One pass of `_turns` makes at most one decision (`turn`), however many messages came before it. Everything
between two awaits is atomic, and no handler awaits, so state needs no locks. Which models there are is
`roster`, what tasks do to their jobs `runs`, what requests get `desk`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol

from gateway.accounts import Accounts
from gateway.alarm import Alarm
from gateway.config import GatewayConfig
from gateway.decisions import Planner
from gateway.desk import Desk
from gateway.encodes import EncodeCache
from gateway.errors import ApiError, InternalError, OperatorError, StartFailed
from gateway.fleet import Fleet, Worker, WorkerState
from gateway.handoffs import Handoffs
from gateway.job import Job
from gateway.jobs import JobBook
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.recording import Recording
from gateway.roster import Roster
from gateway.setbacks import Setbacks
from gateway.surroundings import Surroundings
from gateway.tasks import TaskMessage, file_of
from gateway.turn import Turn
from gateway.watch import overdue
from pipelines.catalogue import Catalogue
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
    ModelForgotten,
    ProfileFailed,
    ProfileMeasured,
    ProfileProgress,
    StagesEvicted,
    StagesLoaded,
    ToGateway,
)
from wire.to_worker import Refused, Stop, ToWorker, Welcome

log = logging.getLogger(__name__)

_MAX_OUTBOX = 10_000


class Processes(Protocol):
    """What the engine asks of the supervisor."""

    def kill(self, worker_id: str) -> None: ...

    def proved(self, worker_id: str) -> None: ...


class Engine:
    """Any number of models on one fleet. `run` must be running for anything to happen.

    `failed` gets the reason when the gateway cannot go on; `ready` is set when the models named at start have
    all been ready.
    """

    def __init__(
        self,
        config: GatewayConfig,
        catalogue: Catalogue,
        *,
        socket: GatewaySocket,
        handoffs: Handoffs,
        journal: Journal,
        metrics: Metrics,
        clock: Callable[[], float],
        recording: Recording | None = None,
    ) -> None:
        """Raises `UnknownModel` if the catalogue lacks one of the configured models."""
        self.now_s = clock
        self.began_s = clock()
        self.fleet = Fleet({worker.worker_id: worker.device for worker in config.workers})
        self.book = JobBook(max_queued_jobs=config.max_queued_jobs)
        self.handoffs = handoffs
        self.encodes = EncodeCache(
            handoffs, capacity_bytes=config.encode_cache_bytes, store_bytes=config.store_capacity_bytes
        )
        self.metrics = metrics
        self.failed: asyncio.Future[OperatorError] = asyncio.get_running_loop().create_future()
        self.keeper: Processes | None = None
        self.accounts = Accounts(journal, metrics)
        self.planner = Planner(config, metrics.decision_seconds.observe, recording)
        self.config = config
        self._socket = socket
        self._dirty = asyncio.Event()
        self._alarm = Alarm(self._dirty.set, clock)
        self._stopping = False
        self._outbox: asyncio.Queue[tuple[str, ToWorker]] = asyncio.Queue(_MAX_OUTBOX)
        self._group: asyncio.TaskGroup | None = None
        self.desk = Desk(
            self.planner,
            self.book,
            handoffs,
            self.encodes,
            self.accounts,
            changed=self._dirty.set,
            clock=clock,
        )
        setbacks = Setbacks(
            self.desk, self.fleet, handoffs, self.encodes, self.accounts, send=self.send, clock=clock
        )
        self.desk.open(setbacks)
        around = Surroundings(
            config=config,
            fleet=self.fleet,
            planner=self.planner,
            desk=self.desk,
            handoffs=handoffs,
            encodes=self.encodes,
            accounts=self.accounts,
            setbacks=setbacks,
            send=self.send,
            deliver=self.deliver,
            spawn=self.spawn,
            wake_at=self._alarm.at,
            changed=self._dirty.set,
            clock=clock,
        )
        self.roster = Roster(catalogue, around, self)
        self.ready = self.roster.started
        self._turn = Turn(self.roster, around)
        metrics.watch(self.fleet, self.book, self.encodes, handoffs, self.roster, self.planner)

    async def run(self) -> None:
        """Work until cancelled, or until a bug of ours, which `failed` then tells. Frees nothing."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for work in (self._receive, self._send_all, self._turns, self._watch):
                    group.create_task(work(), name=work.__name__)
        except Exception as error:
            log.critical("the engine failed", exc_info=error)
            self.give_up(StartFailed(f"internal error: {error!r}"))
            self.refuse(InternalError("the gateway failed and is stopping"))
            self.desk.end_all()
        finally:
            self._alarm.cancel()

    def not_ready_reason(self) -> str | None:
        """Why the models named at start cannot all be served whole right now, None if they can."""
        if self.desk.refusing is not None:
            return self.desk.refusing.message
        if not self.fleet.up():
            return "no worker is up"
        return self.roster.not_ready_reason()

    def refuse(self, error: ApiError) -> None:
        """Answer every new request with `error` from now on, and who waits for a model; the rest goes on."""
        self.desk.refuse(error)
        for served in self.roster:
            served.settled.set()

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
        if all(w.state is WorkerState.GIVEN_UP for w in self.fleet):
            self.give_up(StartFailed(f"no worker can be kept running; {worker_id}: {reason}"))
        else:
            self.roster.worker_given_up(worker_id, reason)
        self._dirty.set()

    # what models and their tasks ask

    def send(self, worker_id: str, message: ToWorker) -> None:
        self._outbox.put_nowait((worker_id, message))

    def deliver(self, job: Job) -> None:
        self.spawn(self.desk.deliver(job))

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the turns; an error in it ends the engine."""
        assert self._group is not None
        self._group.create_task(work)

    def proved(self, worker: Worker) -> None:
        if self.keeper is not None:
            self.keeper.proved(worker.worker_id)

    def kill(self, worker: Worker, reason: str) -> None:
        self.accounts.worker_killed(worker, reason, self.now_s())
        worker.condemned = True
        if self.keeper is not None:
            self.keeper.kill(worker.worker_id)

    def give_up(self, error: OperatorError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

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
            self._discard(message)
            return
        worker.heard(self.now_s())
        match message:
            case Heartbeat():
                worker.beat(message, self.now_s())
                return
            case Goodbye():
                log.info("%s leaves: %s", worker_id, message.reason)
            case (
                Described()
                | DescribeFailed()
                | StagesLoaded()
                | LoadFailed()
                | StagesEvicted()
                | ModelForgotten()
                | ProfileProgress()
                | ProfileMeasured()
                | ProfileFailed()
            ):
                self.roster.heard(worker, message)
            case _:
                self._hear_of_task(worker, message)
        self._dirty.set()

    def _hear_of_task(self, worker: Worker, message: TaskMessage) -> None:
        task = worker.task_of(message.task_id)
        if task is not None:
            self.roster.runs(task.model).heard(worker, task, message)
            return
        self._discard(message)
        log.debug("%s: late %s of task %s", worker.worker_id, type(message).__name__, message.task_id)

    def _discard(self, message: ToGateway) -> None:
        """Free the file that a message names which comes too late, unless somebody owns it."""
        if (handle := file_of(message)) is not None:
            self.handoffs.discard(handle)

    def _greet(self, worker_id: str, worker: Worker | None, hello: Hello) -> None:
        reason = None
        if worker is None:
            reason = f"there is no worker {worker_id!r} in this fleet"
        elif hello.protocol_version != PROTOCOL_VERSION:
            reason = f"{worker_id} speaks protocol {hello.protocol_version}, the gateway {PROTOCOL_VERSION}"
            self.give_up(StartFailed(reason))
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
        self.send(worker_id, Welcome(heartbeat_interval_s=self.config.heartbeat_interval_s))
        self.roster.worker_greeted(worker)
        self._dirty.set()

    def _lost(self, worker: Worker, reason: str) -> None:
        self.roster.worker_lost(worker, reason)
        tasks = worker.lost(self.now_s())
        self.accounts.worker_changed(worker, self.now_s(), reason)
        for task in tasks:
            self.roster.runs(task.model).worker_lost(worker.worker_id, task, reason)
        self._dirty.set()

    # decisions

    async def _turns(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._take_turn()

    def _take_turn(self) -> None:
        if self._stopping or self.failed.done():
            return
        self.roster.advance(self.now_s())
        if not self.ready.is_set() and any(w.state is WorkerState.STARTING for w in self.fleet):
            # placing the first worker alone would load everything on it; the others are about to come
            return
        if self.planner.models:
            self._turn.take(self.now_s())

    # health

    async def _watch(self) -> None:
        interval_s = self.config.heartbeat_interval_s
        while True:
            before_s = self.now_s()
            await asyncio.sleep(interval_s)
            if self.now_s() - before_s > interval_s + self.config.heartbeat_timeout_s / 2:
                # it was us who stood still (a suspended machine); what workers said meanwhile is not read yet
                continue
            self.check_workers()

    def check_workers(self) -> None:
        """Kill the workers that are silent or stuck."""
        for worker, reason in overdue(self.fleet, self.planner, self.config, self.now_s()):
            self.kill(worker, reason)
