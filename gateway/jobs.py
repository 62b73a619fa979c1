"""Jobs, the requests they belong to, and the book that holds both to one outcome each. No I/O.

A job is one picture. A request is n jobs: DONE when all are, FAILED at the first failure with the rest
cancelled. What a job owns in the handoff store is at most one file: the output of its last finished task.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.errors import ApiError, InternalError, QueueFull
from gateway.lifecycle import BACK_TO, ENDED, STARTED, Event, State, advance
from pipelines.graph import StageGraph
from planner.types import JobView, Shape
from wire.generation import Generation
from wire.handle import Handle


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
class Job:
    """One picture on its way. Times are the gateway's monotonic seconds.

    `n_durable` stages are behind it, whose last output is `handoff`. `task_id` is set while a worker has it;
    `n_ended` counts the stages that ended within that task too. `furthest` is the last step boundary ever
    passed, as (stage index, step); `died_at` is what it was when a worker last died in a stage.
    """

    job_id: str
    request_id: str
    generation: Generation
    graph: StageGraph
    shape: Shape
    arrived_s: float
    deadline_s: float
    state: State = State.QUEUED
    entered_s: float = 0.0
    spent_s: dict[State, float] = field(default_factory=dict)
    n_durable: int = 0
    n_ended: int = 0
    handoff: Handle | None = None
    task_id: str | None = None
    hold_until_s: float = 0.0
    furthest: tuple[int, int] = (0, 0)
    died_at: dict[int, tuple[int, int]] = field(default_factory=dict)
    n_store_full: int = 0
    n_handoff_lost: int = 0
    picture: bytes | None = None

    @property
    def model(self) -> str:
        return self.graph.model

    @property
    def steps(self) -> int:
        return self.generation.num_inference_steps

    @property
    def is_open(self) -> bool:
        return not self.state.is_terminal

    @property
    def pending(self) -> tuple[str, ...]:
        """Stages that have not ended, in order."""
        return self.graph.names[self.n_ended :]

    def can_run(self, stages: tuple[str, ...]) -> bool:
        """Whether `stages` are the next ones and no worker has it."""
        return self.task_id is None and self.pending[: len(stages)] == stages

    def advance(self, event: Event, now_s: float) -> None:
        """Move along the table and stamp the time. Raises `IllegalTransition`, and then nothing changed."""
        after = advance(self.state, event)
        self.spent_s[self.state] = self.spent_s.get(self.state, 0.0) + max(0.0, now_s - self.entered_s)
        self.state = after
        self.entered_s = now_s

    def stage_started(self, now_s: float) -> None:
        """The next pending stage runs now."""
        self.advance(STARTED[self.graph.stages[self.n_ended].kind], now_s)

    def stage_ended(self, now_s: float) -> None:
        """The running stage ended; its output may still be in the worker's memory only."""
        ended = self.graph.stages[self.n_ended]
        self.n_ended += 1
        self.furthest = max(self.furthest, (self.n_ended, 0))
        later = self.graph.stages[self.n_ended :]
        if not later or later[0].kind != ended.kind:
            self.advance(ENDED[ended.kind], now_s)

    def step_done(self, step: int) -> None:
        self.furthest = max(self.furthest, (self.n_ended, step))

    def keep(self, handoff: Handle) -> Handle | None:
        """The task ended and `handoff` is its output. Returns the file that is no longer needed, if any."""
        freed, self.handoff = self.handoff, handoff
        self.n_durable = self.n_ended
        self.task_id = None
        return freed

    def rewind(self, now_s: float, *, handoff_lost: bool = False) -> Handle | None:
        """Back to the last point whose handoff exists, or to the start. Returns a file to free, if any."""
        freed: Handle | None = None
        if handoff_lost:
            freed, self.handoff = self.handoff, None
            self.n_durable = 0
        self.task_id = None
        self.n_ended = self.n_durable
        self.advance(BACK_TO[self.graph.stages[self.n_ended].kind], now_s)
        return freed

    def died(self) -> bool:
        """A worker died with this job. True if that makes it poison: twice in a stage, no step gained."""
        poison = self.died_at.get(self.n_ended) == self.furthest
        self.died_at[self.n_ended] = self.furthest
        return poison

    def view(self) -> JobView:
        return JobView(
            job_id=self.job_id,
            model=self.model,
            shape=self.shape,
            steps=self.steps,
            pending=self.pending,
            arrived_s=self.arrived_s,
            deadline_s=self.deadline_s,
            running=self.task_id is not None,
        )


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
    def slowest(self) -> Job:
        """The job that took longest; its times stand for the request's."""
        return max(self.jobs, key=lambda job: sum(job.spent_s.values()))

    @property
    def deadline_met(self) -> bool:
        return self.outcome is Outcome.DONE and all(self.ended_s <= job.deadline_s for job in self.jobs)


class JobBook:
    """Every open request, and the rule that each ends in exactly one outcome."""

    def __init__(self, *, max_queued_jobs: int) -> None:
        self._max_queued_jobs = max_queued_jobs
        self._requests: dict[str, Request] = {}
        self._jobs: dict[str, Job] = {}
        self._n_accepted = 0
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
        settled = sum(n for outcome, n in self._outcomes.items() if outcome is not Outcome.REJECTED)
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
