"""The engine: feeds the planner, carries out its effects, hears the workers, answers the requests.

One turn of `_turns` makes at most one decision, however many messages came before it. Everything between two
awaits is atomic, and no handler awaits, so state needs no locks. What a task does to its job is `runs`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Protocol

import msgspec

from gateway.config import GatewayConfig
from gateway.decisions import Planner, planner_config, shape_of
from gateway.errors import (
    ApiError,
    ClientLeft,
    InternalError,
    NotReady,
    OperatorError,
    QueueFull,
    ShuttingDown,
    StartFailed,
)
from gateway.fleet import Fleet, Worker, WorkerState
from gateway.handoffs import Handoffs
from gateway.jobs import Job, JobBook, Outcome, Request
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.runs import Runs
from gateway.timings import times_s
from pipelines.catalogue import Model, to_entry
from pipelines.graph import StageGraph
from planner.types import Effect, Evict, Load, Observation, Run, WakeAt
from wire.codec import PROTOCOL_VERSION
from wire.errors import HandoffLost, MessageRefused
from wire.generation import Generation
from wire.sockets import GatewaySocket
from wire.to_gateway import (
    Described,
    DescribeFailed,
    Goodbye,
    Heartbeat,
    Hello,
    LoadFailed,
    Phase,
    StagesLoaded,
    ToGateway,
)
from wire.to_worker import Describe, EvictStages, LoadStages, Refused, Stop, ToWorker, Welcome

log = logging.getLogger(__name__)

_MAX_OUTBOX = 10_000
_PROGRESS_TIMES_EXPECTED = 5.0


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
        name: str,
        model: Model,
        *,
        socket: GatewaySocket,
        handoffs: Handoffs,
        journal: Journal,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.model = model
        self.now_s = clock
        self.fleet = Fleet({worker.worker_id: worker.device for worker in config.workers})
        self.book = JobBook(max_queued_jobs=config.max_queued_jobs)
        self.handoffs = handoffs
        self.metrics = metrics
        self.ready = asyncio.Event()
        self.failed: asyncio.Future[OperatorError] = asyncio.get_running_loop().create_future()
        self.keeper: Keeper | None = None
        self._config = config
        self._socket = socket
        self._journal = journal
        self._entry = to_entry(model)
        self._graph: StageGraph | None = None
        self._describing: str | None = None
        self._planner: Planner | None = None
        self._runs: Runs | None = None
        self._outbox: asyncio.Queue[tuple[str, ToWorker]] = asyncio.Queue(_MAX_OUTBOX)
        self._dirty = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._refusing: ApiError | None = None
        self._stopping = False
        metrics.watch(self.fleet, self.book)

    # what the HTTP surface asks

    def not_ready_reason(self) -> str | None:
        """Why the model cannot be served whole right now, None if it can."""
        if self._refusing is not None:
            return self._refusing.message
        if not self.fleet.up():
            return "no worker is up"
        if self._runs is None:
            return f"the stages of {self.name} are not known yet"
        if missing := self._runs.warm_ups.missing(self.fleet):
            return f"{', '.join(missing)} of {self.name} is not loaded and warmed on any worker"
        return None

    async def generate(
        self, generations: tuple[Generation, ...], *, slo_ms: float | None, request_id: str
    ) -> Request:
        """All pictures of one request, in order. Raises the request's `ApiError`.

        Cancellation ends the request as CANCELLED: waiting jobs at once, running ones at their next step
        boundary, with their handoffs freed.
        """
        request = self._accept(generations, slo_ms, request_id)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[request_id] = waiter
        try:
            await waiter
        except asyncio.CancelledError:
            self._end(request, Outcome.CANCELLED, ClientLeft("the client closed its connection"))
            raise
        finally:
            del self._waiters[request_id]
        if request.error is not None:
            raise request.error
        return request

    # its own life

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
            self.refuse(InternalError("the gateway failed and is stopping"))
            self.end_all()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def refuse(self, error: ApiError) -> None:
        """Answer every new request with `error` from now on."""
        self._refusing = error

    async def drained(self) -> None:
        """Returns when no request is open."""
        while self._waiters:
            await asyncio.wait([*self._waiters.values()])
            await asyncio.sleep(0)

    def end_all(self) -> None:
        """End every open request as CANCELLED, with the error that new ones get."""
        error = self._refusing or ShuttingDown("the gateway is stopping")
        for request in self.book.open_requests:
            self._end(request, Outcome.CANCELLED, error)

    def stop_workers(self) -> None:
        """Ask every live worker to leave, and each that comes up from now on."""
        self._stopping = True
        for worker in self.fleet.up():
            self.send(worker.worker_id, Stop())

    # what the supervisor tells

    def worker_started(self, worker_id: str) -> None:
        self.fleet[worker_id].started(self.now_s())
        self._journal_worker(worker_id)

    def worker_exited(self, worker_id: str, reason: str) -> None:
        log.warning("%s ended: %s", worker_id, reason)
        self.metrics.restarts.labels(worker_id).inc()
        self._lost(self.fleet[worker_id], reason)

    def worker_given_up(self, worker_id: str, reason: str) -> None:
        log.error("%s is given up: it never came up whole, last: %s", worker_id, reason)
        self.fleet[worker_id].lost(self.now_s(), for_good=True)
        self._journal_worker(worker_id)
        if all(worker.state is WorkerState.GIVEN_UP for worker in self.fleet):
            self._give_up(StartFailed(f"no worker can be kept running; {worker_id}: {reason}"))
        self._dirty.set()

    # what `runs` asks

    def send(self, worker_id: str, message: ToWorker) -> None:
        self._outbox.put_nowait((worker_id, message))

    def wake_at(self, at_s: float) -> None:
        """Make a turn at `at_s`. An earlier time that was asked for stays."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, at_s - self.now_s())
        if (
            self._timer is not None
            and not self._timer.cancelled()
            and loop.time() < self._timer.when() <= when
        ):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._dirty.set)

    def deliver(self, job: Job) -> None:
        assert self._group is not None
        self._group.create_task(self._deliver(job), name=f"deliver {job.job_id}")

    def fail(self, job: Job, error: ApiError) -> None:
        request = self.book.request_of(job)
        self._settle(request, self.book.fail(job, error, self.now_s()))

    def warmed(self, worker: Worker, stage: str) -> None:
        key = (self.name, stage)
        worker.unwarmed.discard(key)
        worker.resident.add(key)
        log.info("%s: %s is warm", worker.worker_id, stage)
        if self.keeper is not None:
            self.keeper.proved(worker.worker_id)
        if not self.ready.is_set() and self.not_ready_reason() is None:
            self.ready.set()

    def warm_up_failed(self, worker: Worker, stage: str, reason: str) -> None:
        text = f"the first run of {stage} on {worker.worker_id} failed: {reason}"
        if not self.ready.is_set():
            self._give_up(StartFailed(text))
        else:
            self._kill(worker, text)

    # requests

    def _accept(self, generations: tuple[Generation, ...], slo_ms: float | None, request_id: str) -> Request:
        if self._refusing is not None:
            raise self._refusing
        if not self.ready.is_set() or self._planner is None or self._graph is None:
            raise NotReady(f"not ready yet: {self.not_ready_reason()}")
        now_s = self.now_s()
        jobs = []
        for index, generation in enumerate(generations):
            shape = shape_of(generation, self.model)
            steps = generation.num_inference_steps
            jobs.append(
                Job(
                    job_id=f"{request_id}-{index}",
                    request_id=request_id,
                    generation=generation,
                    graph=self._graph,
                    shape=shape,
                    arrived_s=now_s,
                    deadline_s=self._planner.deadline_s(shape, steps, now_s, slo_ms),
                )
            )
        request = Request(request_id=request_id, jobs=tuple(jobs), arrived_s=now_s)
        try:
            self.book.accept(request, now_s)
        except QueueFull:
            self._record(request)
            raise
        self._dirty.set()
        return request

    def _end(self, request: Request, outcome: Outcome, error: ApiError) -> None:
        if request.outcome is None:
            self._settle(request, self.book.end(request, outcome, error, self.now_s()))

    def _settle(self, request: Request, were_open: tuple[Job, ...]) -> None:
        """The request has ended: free what its jobs hold, tell who waits."""
        assert self._runs is not None
        for job in were_open:
            self._runs.abandon(job)
        self._record(request)
        waiter = self._waiters.get(request.request_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self._dirty.set()

    def _record(self, request: Request) -> None:
        assert request.outcome is not None
        generation = request.jobs[0].generation
        status = 200 if request.error is None else request.error.http_status
        times = times_s(request.slowest)
        self.metrics.requests.labels(str(request.outcome)).inc()
        if request.outcome is Outcome.DONE:
            self.metrics.request_seconds.observe(times["total"])
            self.metrics.deadlines.labels(str(request.deadline_met).lower()).inc()
        log.info(
            "%s %s %d n=%d %.3f s",
            request.request_id,
            request.outcome,
            status,
            len(request.jobs),
            times["total"],
        )
        self._journal.record(
            "request",
            request=request.request_id,
            outcome=request.outcome,
            status=status,
            code=None if request.error is None else request.error.code,
            n=len(request.jobs),
            size=f"{generation.width_px}x{generation.height_px}",
            steps=generation.num_inference_steps,
            times_s=times,
            deadline_s=request.jobs[0].deadline_s - request.arrived_s,
            deadline_met=request.deadline_met,
            at_s=request.ended_s,
        )

    async def _deliver(self, job: Job) -> None:
        """Read the finished picture and hand it to its request."""
        assert self._runs is not None
        handoff = job.handoff
        assert handoff is not None
        try:
            picture = await self.handoffs.read(handoff)
        except (HandoffLost, OSError):
            if job.is_open:
                self._runs.handoff_lost(job)
                self._dirty.set()
            return
        if not job.is_open:
            return
        job.handoff = None
        self.handoffs.free(handoff)
        if request := self.book.delivered(job, picture, self.now_s()):
            self._settle(request, ())

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
                if self._runs is not None:
                    self._runs.heard(worker, message)
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
        self._journal_worker(worker_id)
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
            graph = msgspec.convert(message.graph, StageGraph)
            self._planner = Planner(planner_config(self._config, graph), graph)
        except (msgspec.ValidationError, StopIteration) as error:
            self._give_up(StartFailed(f"{worker.worker_id} described {self.name} wrongly: {error!r}"))
            return
        except OperatorError as error:
            self._give_up(error)
            return
        self._graph = graph
        self._runs = Runs(
            self,
            graph=graph,
            model=self.model,
            fleet=self.fleet,
            book=self.book,
            handoffs=self.handoffs,
            journal=self._journal,
            metrics=self.metrics,
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
        task = worker.lost(self.now_s())
        self._journal_worker(worker.worker_id)
        if task is not None and self._runs is not None:
            self._runs.worker_lost(worker.worker_id, task, reason)
        self._describe()
        self._dirty.set()

    # decisions

    async def _turns(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._turn()

    def _turn(self) -> None:
        runs, planner = self._runs, self._planner
        if runs is None or planner is None or self.failed.done():
            return
        if not self.ready.is_set() and any(w.state is WorkerState.STARTING for w in self.fleet):
            # placing the first worker alone would load everything on it; the others are about to come
            return
        for worker in self.fleet:
            if worker.is_free:
                runs.warm_up(worker)
        now_s = self.now_s()
        samples, runs.samples = tuple(runs.samples), []
        observation = Observation(
            now_s=now_s,
            jobs=tuple(job.view() for job in self.book if job.pending and job.hold_until_s <= now_s),
            workers=self.fleet.views(),
            models=planner.models,
            finished=samples,
        )
        for effect in planner.decide(observation):
            self._carry_out(effect, runs)

    def _carry_out(self, effect: Effect, runs: Runs) -> None:
        match effect:
            case WakeAt():
                self.wake_at(effect.at_s)
            case Run():
                self._run(effect, runs)
            case Load():
                worker = self.fleet[effect.worker]
                worker.asked |= {(effect.model, stage) for stage in effect.stages}
                self.send(
                    effect.worker, LoadStages(model=effect.model, entry=self._entry, stages=effect.stages)
                )
                self._told("load", effect)
            case Evict():
                self.fleet[effect.worker].resident -= {(effect.model, stage) for stage in effect.stages}
                self.send(effect.worker, EvictStages(model=effect.model, stages=effect.stages))
                self._told("evict", effect)

    def _run(self, effect: Run, runs: Runs) -> None:
        (job_id,), (worker_id,) = effect.jobs, effect.workers
        job, worker = self.book.job(job_id), self.fleet[worker_id]
        fits = job is not None and job.task_id is None and job.pending[: len(effect.stages)] == effect.stages
        if job is None or not fits or not worker.is_free:
            log.error("the planner's %r does not fit what it was shown", effect)
            return
        runs.dispatch(worker, job, effect.stages)
        log.debug("%s: %s of %s (%s)", worker_id, "+".join(effect.stages), job_id, effect.reason)
        self.metrics.effects.labels("run", str(effect.reason)).inc()
        self._journal.record(
            "effect",
            effect="run",
            worker=worker_id,
            stages=effect.stages,
            job=job_id,
            reason=effect.reason,
            detail="",
            at_s=self.now_s(),
        )

    def _told(self, kind: str, effect: Load | Evict) -> None:
        log.info(
            "%s: %s %s (%s: %s)", effect.worker, kind, ", ".join(effect.stages), effect.reason, effect.detail
        )
        self.metrics.effects.labels(kind, str(effect.reason)).inc()
        self._journal.record(
            "effect",
            effect=kind,
            worker=effect.worker,
            stages=effect.stages,
            reason=effect.reason,
            detail=effect.detail,
            at_s=self.now_s(),
        )

    # health of workers

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat_interval_s)
            self.check_workers()

    def check_workers(self) -> None:
        """Kill workers that are silent or stuck. Bounds are in `GatewayConfig`."""
        now_s = self.now_s()
        for worker in self.fleet:
            silent_s = now_s - worker.heard_at_s
            if worker.condemned:
                continue
            if worker.state is WorkerState.STARTING and silent_s > self._config.hello_timeout_s:
                self._kill(worker, f"no Hello in {silent_s:.0f} s")
            elif worker.is_up and silent_s > self._config.heartbeat_timeout_s:
                self._kill(worker, f"nothing heard in {silent_s:.1f} s")
            elif worker.is_up and worker.task is not None:
                if worker.phase is Phase.LOADING:
                    worker.task.moved_at_s = now_s
                stuck_s = now_s - worker.task.moved_at_s
                if stuck_s > self._stall_bound_s(worker):
                    self._kill(worker, f"stuck in {worker.task.pending[:1]} for {stuck_s:.1f} s")

    def _stall_bound_s(self, worker: Worker) -> float:
        task = worker.task
        assert task is not None
        if task.is_warm_up or not task.pending or self._planner is None:
            return self._config.warm_up_timeout_s
        expected_s = self._planner.estimate_s(task.pending[0], task.shape, 1)
        if expected_s is None:
            return self._config.warm_up_timeout_s
        return max(self._config.stall_timeout_s, _PROGRESS_TIMES_EXPECTED * expected_s)

    def _kill(self, worker: Worker, reason: str) -> None:
        log.error("%s is killed: %s", worker.worker_id, reason)
        worker.condemned = True
        if self.keeper is not None:
            self.keeper.kill(worker.worker_id)

    def _journal_worker(self, worker_id: str) -> None:
        self._journal.record("worker", worker=worker_id, state=self.fleet[worker_id].state, at_s=self.now_s())

    def _give_up(self, error: OperatorError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)


def new_request_id() -> str:
    """Names one request in replies, logs and the journal."""
    return f"req-{uuid.uuid4().hex[:20]}"
