"""What lost work and failed tasks mean for a job: again from what is kept of it, or its request's end.

And what the end of a request means for its jobs on workers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.accounts import Accounts, Retry
from gateway.desk import Desk
from gateway.encodes import EncodeCache
from gateway.errors import (
    HandoffsLost,
    InputRefused,
    OutOfMemory,
    PoisonRequest,
    StageFailed,
    StoreExhausted,
)
from gateway.fleet import Fleet
from gateway.handoffs import Handoffs
from gateway.job import Job
from gateway.orders import Send
from wire.generation import Exactness
from wire.to_gateway import FailureKind, TaskFailed
from wire.to_worker import CancelTask

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

    def __init__(
        self,
        desk: Desk,
        fleet: Fleet,
        handoffs: Handoffs,
        encodes: EncodeCache,
        accounts: Accounts,
        *,
        send: Send,
        clock: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._fleet = fleet
        self._handoffs = handoffs
        self._encodes = encodes
        self._accounts = accounts
        self._send = send
        self._now_s = clock

    def abandon(self, job: Job) -> None:
        """`job` has ended: its task is cancelled at the next step boundary, its files freed now."""
        for worker in self._fleet.up():
            for task in worker.batch:
                if task.task_id == job.task_id:
                    self._send(worker.worker_id, CancelTask(task_id=task.task_id))
        self._handoffs.free(*job.forget_all())

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
                self.store_full(job)

    def wrong_output(self, job: Job, stage: str) -> None:
        """The worker named a file that belongs to somebody else."""
        self._desk.fail(job, StageFailed(f"{stage} failed: its output is the file of another task"))

    def promise_broken(self, job: Job, stage: str, kept: Exactness) -> None:
        """The worker lowered what the request asked for, which only the gateway may decide."""
        asked = job.generation.exactness
        self._desk.fail(job, StageFailed(f"{stage} failed: {asked} was asked for, the worker kept {kept}"))

    def handoff_lost(self, job: Job) -> None:
        """A file of the job is gone: it begins its loop again, or starts over, a bounded number of times.

        A worker does not say which one: where there is a checkpoint it is taken to be that, and if it was
        not, the next attempt tells.
        """
        job.n_handoff_lost += 1
        if job.n_handoff_lost > MAX_HANDOFF_LOST:
            self._desk.fail(job, HandoffsLost("handoff files of this request went missing repeatedly"))
            return
        if job.checkpoint is not None:
            freed = job.forget_checkpoint()
        else:
            if job.handoff is not None:
                self._encodes.drop(job.handoff)
            freed = job.forget_all()
        job.rewind(self._now_s())
        self._handoffs.free(*freed)
        self._accounts.retried(job, Retry.HANDOFF_LOST)
        log.warning("job %s: a handoff is gone, it goes on from the start of %s", job.job_id, job.pending[0])

    def work_lost(self, job: Job, last_stage: str, why: str, reason: Retry) -> None:
        """Its worker is gone: back to the last handoff or checkpoint, unless the job is poison.

        `last_stage` of its task is where it is, if every stage had ended and only the file was missing.
        """
        stage = job.pending[0] if job.pending else last_stage
        if job.died():
            error = f"two workers were lost in {stage} of this request and it got no further in between"
            self._desk.fail(job, PoisonRequest(error))
            return
        job.rewind(self._now_s())
        self._accounts.retried(job, reason)
        where, step = job.pending[0], job.steps_done
        log.warning("job %s: %s in %s, it goes on from %s, step %d", job.job_id, why, stage, where, step)

    def store_full(self, job: Job) -> None:
        """Others free their handoffs as they get on: wait a little, longer each time."""
        self._encodes.clear()
        job.n_store_full += 1
        if job.n_store_full > MAX_STORE_FULL:
            error = StoreExhausted("the handoff store stayed full over several attempts")
            self._desk.fail(job, error)
            return
        now_s = self._now_s()
        job.hold_until_s = now_s + STORE_FULL_HOLD_S * 2**job.n_store_full
        job.rewind(now_s)
        self._accounts.retried(job, Retry.STORE_FULL)
