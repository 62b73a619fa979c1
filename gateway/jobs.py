"""Requests, their jobs, and the book that holds both to one outcome each. No I/O.

A request is n jobs: DONE when all are, FAILED at the first failure with the rest cancelled.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.errors import ApiError, InternalError, QueueFull
from gateway.job import Job
from gateway.lifecycle import Event, State
from wire.generation import Exactness, weakest


class Outcome(enum.StrEnum):
    """How an accepted or refused request ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


_OUTCOME_EVENT = {
    Outcome.FAILED: Event.FAILED,
    Outcome.CANCELLED: Event.CANCELLED,
    Outcome.REJECTED: Event.REJECTED,
}


@dataclass(slots=True, eq=False)
class Request:
    """What one call to the API asked for. `outcome` is None while it is open; `error` says why it ended."""

    request_id: str
    jobs: tuple[Job, ...]
    arrived_s: float
    outcome: Outcome | None = None
    error: ApiError | None = None
    ended_s: float = 0.0

    @property
    def model(self) -> str:
        """All of its jobs are of one."""
        return self.jobs[0].model

    @property
    def slowest(self) -> Job:
        """The job that took longest; its times stand for the request's."""
        return max(self.jobs, key=lambda job: sum(job.spent_s.values()))

    @property
    def exactness(self) -> Exactness:
        """What was kept of the promise: that of the weakest picture."""
        return weakest(job.exactness for job in self.jobs)

    @property
    def deadline_s(self) -> float:
        """When all of its pictures are due."""
        return min(job.deadline_s for job in self.jobs)

    @property
    def deadline_met(self) -> bool:
        return self.outcome is Outcome.DONE and self.ended_s <= self.deadline_s


class JobBook:
    """Every open request, and the rule that each ends in exactly one outcome."""

    def __init__(self, *, max_queued_jobs: int) -> None:
        self._max_queued_jobs = max_queued_jobs
        self._requests: dict[str, Request] = {}
        self._jobs: dict[str, Job] = {}
        self._n_accepted = 0
        self._n_turned_away = 0
        self._outcomes: Counter[Outcome] = Counter()

    @property
    def open_requests(self) -> tuple[Request, ...]:
        return tuple(self._requests.values())

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def job(self, job_id: str) -> Job | None:
        """The open job of that id."""
        return self._jobs.get(job_id)

    def n_waiting(self) -> int:
        """Open jobs that no worker has: what the bound is on, at every stage."""
        return sum(job.task_id is None and job.state is not State.FINISHING for job in self)

    def accept(self, request: Request, now_s: float) -> None:
        """Take `request` in. Raises `QueueFull`; the request is then REJECTED and not kept."""
        for job in request.jobs:
            job.entered_s = now_s
        waiting = self.n_waiting()
        if waiting + len(request.jobs) > self._max_queued_jobs:
            error = QueueFull(
                f"{waiting} pictures are waiting, {len(request.jobs)} more would pass the bound of"
                f" {self._max_queued_jobs}",
                retry_after_s=self._retry_after_s(now_s),
            )
            self._n_turned_away += 1
            self._end(request, Outcome.REJECTED, error, request.jobs, now_s)
            raise error
        self._n_accepted += 1
        self._requests[request.request_id] = request
        self._jobs |= {job.job_id: job for job in request.jobs}

    def request_of(self, job: Job) -> Request:
        return self._requests[job.request_id]

    def delivered(self, job: Job, picture: bytes, now_s: float) -> Request | None:
        """The picture of `job` is here. Returns its request if that is DONE now."""
        job.advance(Event.DELIVERED, now_s)
        job.picture = picture
        request = self._requests[job.request_id]
        if any(other.is_open for other in request.jobs):
            return None
        self._end(request, Outcome.DONE, None, (), now_s)
        return request

    def end(self, request: Request, outcome: Outcome, error: ApiError, now_s: float) -> tuple[Job, ...]:
        """End an open request as a whole: FAILED or CANCELLED. Returns the jobs that were open.

        The caller cancels their tasks and frees their handoffs.
        """
        still_open = tuple(job for job in request.jobs if job.is_open)
        self._end(request, outcome, error, still_open, now_s)
        return still_open

    def fail(self, job: Job, error: ApiError, now_s: float) -> tuple[Job, ...]:
        """`job` failed, and so its request. Returns the jobs that were open, `job` among them."""
        request = self._requests[job.request_id]
        still_open = tuple(other for other in request.jobs if other.is_open)
        job.advance(Event.FAILED, now_s)
        rest = tuple(other for other in still_open if other is not job)
        self._end(request, Outcome.FAILED, error, rest, now_s, event=Event.CANCELLED)
        return still_open

    def statistics(self) -> dict[str, int]:
        """Counts: accepted, open, one per outcome, and jobs per state."""
        states = Counter(job.state for job in self)
        return {
            "accepted": self._n_accepted,
            "open": len(self._requests),
            **{f"requests_{outcome}": self._outcomes[outcome] for outcome in Outcome},
            **{f"jobs_{state}": states[state] for state in State if not state.is_terminal},
        }

    def check(self) -> None:
        """Raises `InternalError` if a request has no outcome, two of them, or open jobs after it."""
        settled = self._outcomes.total() - self._n_turned_away
        if self._n_accepted != settled + len(self._requests):
            raise InternalError(
                f"{self._n_accepted} requests were accepted, {settled} ended, {len(self._requests)} are open"
            )
        for request in self._requests.values():
            if request.outcome is not None or not any(job.is_open for job in request.jobs):
                raise InternalError(f"request {request.request_id} is open and has nothing left to do")
        of_requests = {job.job_id for request in self._requests.values() for job in request.jobs}
        if not of_requests.issuperset(self._jobs):
            raise InternalError("a job outlived its request")

    def _end(
        self,
        request: Request,
        outcome: Outcome,
        error: ApiError | None,
        jobs: Iterable[Job],
        now_s: float,
        *,
        event: Event | None = None,
    ) -> None:
        if request.outcome is not None:
            raise InternalError(f"request {request.request_id} ended twice")
        for job in jobs:
            job.advance(event or _OUTCOME_EVENT[outcome], now_s)
        request.outcome, request.error, request.ended_s = outcome, error, now_s
        self._outcomes[outcome] += 1
        self._requests.pop(request.request_id, None)
        for job in request.jobs:
            self._jobs.pop(job.job_id, None)

    def _retry_after_s(self, now_s: float) -> float:
        """A guess from how long the oldest waiting picture has been waiting."""
        waited_s = max((now_s - job.arrived_s for job in self), default=1.0)
        return min(60.0, max(1.0, waited_s))
