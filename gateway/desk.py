"""Where requests come in and answers go out: acceptance, the one outcome of each, finished pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.accounts import Accounts
from gateway.decisions import Planner, shape_of
from gateway.encodes import EncodeCache, encode_key
from gateway.errors import (
    ApiError,
    ClientLeft,
    DeadlineInfeasible,
    DeadlineMissed,
    QueueFull,
    ShuttingDown,
)
from gateway.handoffs import Handoffs
from gateway.job import Job
from gateway.jobs import JobBook, Outcome, Request
from gateway.terms import Terms
from pipelines.catalogue import Model
from pipelines.graph import StageGraph
from wire.errors import HandoffLost
from wire.generation import Generation


class Floor(Protocol):
    """Where the tasks run (`gateway.setbacks.Setbacks`)."""

    def abandon(self, job: Job) -> None: ...

    def handoff_lost(self, job: Job) -> None: ...


class Servable(Protocol):
    """The model of a request (`gateway.served.ServedModel`)."""

    @property
    def model(self) -> Model: ...

    def opened(self) -> StageGraph:
        """Its stages. Raises an `ApiError` if it takes no requests now."""


class Desk:
    """Takes requests once it is open. `changed` is called when the planner has something new to look at."""

    def __init__(
        self,
        planner: Planner,
        book: JobBook,
        handoffs: Handoffs,
        encodes: EncodeCache,
        accounts: Accounts,
        *,
        changed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.book = book
        self.refusing: ApiError | None = None
        self._planner = planner
        self._handoffs = handoffs
        self._encodes = encodes
        self._accounts = accounts
        self._changed = changed
        self._now_s = clock
        self._floor: Floor | None = None
        self._waiters: dict[str, asyncio.Future[None]] = {}

    def open(self, floor: Floor) -> None:
        """`floor` is told of jobs that ended and of files that are gone."""
        self._floor = floor

    def refuse(self, error: ApiError) -> None:
        """Answer every new request with `error` from now on; the open ones go on."""
        self.refusing = error

    async def generate(
        self, served: Servable, generations: tuple[Generation, ...], terms: Terms, *, request_id: str
    ) -> Request:
        """All pictures of one request, in order. Raises the request's `ApiError`.

        Cancellation ends the request as CANCELLED: waiting jobs at once, running ones at their next step
        boundary, with their handoffs freed. So does its deadline, if `terms` say so.
        """
        request = self._accept(served, generations, terms, request_id)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[request_id] = waiter
        due = self._end_when_late(request) if terms.drop_if_late else None
        try:
            await waiter
        except asyncio.CancelledError:
            self._end(request, Outcome.CANCELLED, ClientLeft("the client closed its connection"))
            raise
        finally:
            del self._waiters[request_id]
            if due is not None:
                due.cancel()
        if request.error is not None:
            raise request.error
        return request

    async def drained(self) -> None:
        """Returns when no request is open. Cancellation changes nothing."""
        while self._waiters:
            await asyncio.wait([*self._waiters.values()])
            # let those that were answered leave
            await asyncio.sleep(0)

    def end_all(self) -> None:
        """End every open request as CANCELLED, with the error that new ones get."""
        error = self.refusing or ShuttingDown("the gateway is stopping")
        for request in self.book.open_requests:
            self._end(request, Outcome.CANCELLED, error)

    def end_model(self, model: str, outcome: Outcome, error: ApiError) -> None:
        """End every open request of `model`, FAILED or CANCELLED."""
        for request in self.book.open_requests:
            if request.model == model:
                self._end(request, outcome, error)

    def fail(self, job: Job, error: ApiError) -> None:
        """An open job failed, and with it its request."""
        request = self.book.request_of(job)
        self._settle(request, self.book.fail(job, error, self._now_s()))

    def reject(self, job: Job, why: str, *, retry_after_s: float) -> None:
        """An open job could not be in time, and its request is not served: REJECTED if nothing was begun."""
        request = self.book.request_of(job)
        if not job.is_started:
            error = DeadlineInfeasible(f"it could not be in time: {why}", retry_after_s=retry_after_s)
            self._end(request, Outcome.REJECTED, error)
        else:
            self._end(request, Outcome.CANCELLED, DeadlineMissed(f"it cannot be in time any more: {why}"))

    async def deliver(self, job: Job) -> None:
        """Read the picture of a job that is FINISHING and hand it to its request.

        Cancellation leaves the file to the job.
        """
        handoff = job.handoff
        if handoff is None:
            # its request ended between the task's making and its first step
            return
        try:
            picture = await self._handoffs.read(handoff)
        except (HandoffLost, OSError):
            if job.is_open and self._floor is not None:
                self._floor.handoff_lost(job)
                self._changed()
            return
        if not job.is_open:
            return
        job.handoff = None
        self._handoffs.free(handoff)
        if request := self.book.delivered(job, picture, self._now_s()):
            self._settle(request, ())

    def _accept(
        self, served: Servable, generations: tuple[Generation, ...], terms: Terms, request_id: str
    ) -> Request:
        if self.refusing is not None:
            raise self.refusing
        graph = served.opened()
        now_s = self._now_s()
        from_loop = graph.names[graph.names.index(graph.loop_stage) :]
        jobs = []
        for index, generation in enumerate(generations):
            shape = shape_of(generation, served.model)
            steps = generation.num_inference_steps
            key = encode_key(generation, served.model, graph) if self._encodes.is_on else None
            stages = from_loop if self._encodes.has(key, generation.exactness) else graph.names
            jobs.append(
                Job(
                    job_id=f"{request_id}-{index}",
                    request_id=request_id,
                    generation=generation,
                    graph=graph,
                    shape=shape,
                    arrived_s=now_s,
                    deadline_s=self._planner.deadline_s(graph.model, stages, shape, steps, now_s, terms),
                    priority=terms.priority,
                    encode_key=key,
                    least_steps=terms.least_steps,
                    deadline_asked=terms.slo_ms is not None,
                    drop_if_late=terms.drop_if_late,
                )
            )
        request = Request(request_id=request_id, jobs=tuple(jobs), arrived_s=now_s)
        self._accounts.request_began(request)
        try:
            self.book.accept(request, now_s)
        except QueueFull:
            self._accounts.request_ended(request)
            raise
        self._changed()
        return request

    def _end_when_late(self, request: Request) -> asyncio.TimerHandle:
        left_s = max(0.0, request.deadline_s - self._now_s())
        allowed_s = request.deadline_s - request.arrived_s
        late = DeadlineMissed(f"not done within {allowed_s:.3f} s, after which it was to be dropped")
        return asyncio.get_running_loop().call_later(left_s, self._end, request, Outcome.CANCELLED, late)

    def _end(self, request: Request, outcome: Outcome, error: ApiError) -> None:
        if request.outcome is None:
            self._settle(request, self.book.end(request, outcome, error, self._now_s()))

    def _settle(self, request: Request, were_open: tuple[Job, ...]) -> None:
        """The request has ended: free what its jobs hold, tell who waits."""
        if self._floor is not None:
            for job in were_open:
                self._floor.abandon(job)
        self._accounts.request_ended(request)
        waiter = self._waiters.get(request.request_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self._changed()
