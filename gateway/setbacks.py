"""What lost work and failed tasks mean for a job: again from its last handoff, or the end of its request."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.desk import Desk
from gateway.errors import (
    HandoffsLost,
    InputRefused,
    OutOfMemory,
    PoisonRequest,
    StageFailed,
    StoreExhausted,
)
from gateway.handoffs import Handoffs
from gateway.jobs import Job
from wire.to_gateway import FailureKind, TaskFailed

log = logging.getLogger(__name__)

MAX_STORE_FULL = 5
MAX_HANDOFF_LOST = 3
STORE_FULL_HOLD_S = 0.1
_MAX_REASON_CHARS = 300


def shown(reason: str) -> str:
    """A worker's reason, short enough for a reply."""
    return reason[:_MAX_REASON_CHARS]


class Setbacks:
    """Every way back is bounded. The job has no task when one of these is called, or its task is lost."""

    def __init__(self, desk: Desk, handoffs: Handoffs, *, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._handoffs = handoffs
        self._now_s = clock

    def task_failed(self, job: Job, message: TaskFailed) -> None:
        """A worker said that it could not."""
        reason = shown(message.reason)
        match message.kind:
            case FailureKind.INPUT:
                self._desk.fail(job, InputRefused(reason))
            case FailureKind.OUT_OF_MEMORY:
                self._desk.fail(job, OutOfMemory(f"{message.stage} ran out of memory: {reason}"))
            case FailureKind.INTERNAL:
                self._desk.fail(job, StageFailed(f"{message.stage} failed: {reason}"))
            case FailureKind.HANDOFF_LOST:
                self.handoff_lost(job)
            case FailureKind.STORE_FULL:
                self._store_full(job)

    def wrong_output(self, job: Job, stage: str) -> None:
        """The worker named a file that belongs to somebody else."""
        self._desk.fail(job, StageFailed(f"{stage} failed: its output is the file of another task"))

    def handoff_lost(self, job: Job) -> None:
        """The file behind the job is gone: it starts over, a bounded number of times."""
        job.n_handoff_lost += 1
        if job.n_handoff_lost > MAX_HANDOFF_LOST:
            self._desk.fail(job, HandoffsLost("handoff files of this request went missing repeatedly"))
            return
        log.warning("job %s: its handoff is gone, starting over", job.job_id)
        self._handoffs.free(job.rewind(self._now_s(), handoff_lost=True))

    def work_lost(self, job: Job, last_stage: str, why: str) -> None:
        """Its worker is gone: back to the last handoff, unless the job is poison.

        `last_stage` of its task is where it is, if every stage had ended and only the file was missing.
        """
        stage = job.pending[0] if job.pending else last_stage
        if job.died():
            error = f"two workers were lost in {stage} of this request and it got no further in between"
            self._desk.fail(job, PoisonRequest(error))
            return
        self._handoffs.free(job.rewind(self._now_s()))
        log.warning("job %s: %s in %s, it goes on from %s", job.job_id, why, stage, job.pending[0])

    def _store_full(self, job: Job) -> None:
        """Others free their handoffs as they get on: wait a little, longer each time."""
        job.n_store_full += 1
        if job.n_store_full > MAX_STORE_FULL:
            error = StoreExhausted("the handoff store stayed full over several attempts")
            self._desk.fail(job, error)
            return
        now_s = self._now_s()
        job.hold_until_s = now_s + STORE_FULL_HOLD_S * 2**job.n_store_full
        self._handoffs.free(job.rewind(now_s))
