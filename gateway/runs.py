"""Tasks on workers: how they start, get on and end, and what each end means for the job. No sockets here.

Every handler runs to its end without awaiting, so a message is either fully told of or not at all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from gateway.accounts import Accounts, Retry
from gateway.fleet import Worker
from gateway.handoffs import Handoffs
from gateway.job import Job
from gateway.jobs import JobBook
from gateway.kept import Kept
from gateway.lifecycle import State
from gateway.orders import Orders
from gateway.setbacks import Setbacks, shown
from gateway.tasks import Task, TaskMessage, file_of
from gateway.warmup import WarmUps
from pipelines.graph import StageGraph
from planner.types import StageSample
from wire.generation import weakest
from wire.to_gateway import (
    CheckpointSaved,
    StageDone,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
)

log = logging.getLogger(__name__)


class Runs:
    """The tasks of one model on the fleet: what was sent by `orders`, the first ones for `warm_ups`."""

    def __init__(
        self,
        graph: StageGraph,
        orders: Orders,
        warm_ups: WarmUps,
        kept: Kept,
        *,
        book: JobBook,
        setbacks: Setbacks,
        handoffs: Handoffs,
        accounts: Accounts,
        deliver: Callable[[Job], None],
        clock: Callable[[], float],
    ) -> None:
        """`deliver` is called with a job whose picture is in the store."""
        self.orders = orders
        self.warm_ups = warm_ups
        self.kept = kept
        self._graph = graph
        self._book = book
        self._setbacks = setbacks
        self._handoffs = handoffs
        self._accounts = accounts
        self._deliver = deliver
        self._now_s = clock
        self._handlers: dict[type, Callable[[Worker, Task, Any], None]] = {
            StageStarted: self._stage_started,
            StepDone: self._step_done,
            StageDone: self._stage_done,
            CheckpointSaved: self._checkpoint_saved,
            TaskDone: self._task_done,
            TaskFailed: self._task_failed,
            TaskCancelled: self._task_cancelled,
            TaskPaused: self._task_paused,
        }
        self._samples: list[StageSample] = []

    def take_samples(self) -> list[StageSample]:
        """The stages that ended since this was last called."""
        samples, self._samples = self._samples, []
        return samples

    def heard(self, worker: Worker, task: Task, message: TaskMessage) -> None:
        """A message about `task`, which `worker` has. Never raises, whatever the worker says."""
        task.moved_at_s = self._now_s()
        self._handlers[type(message)](worker, task, message)

    def worker_lost(self, worker_id: str, task: Task, reason: str) -> None:
        """The worker that had `task` is gone: its job goes back, or ends if it is poison."""
        self._handoffs.free_task(task.task_id)
        job = self._job_of(task)
        if job is not None:
            self._setbacks.work_lost(
                job, task.stages[-1], f"{worker_id} was lost ({reason})", Retry.WORKER_LOST
            )

    def _job_of(self, task: Task) -> Job | None:
        """The open job that waits for `task`; None for a warm-up, or if the job has ended meanwhile."""
        return None if task.job_id is None else self._book.job(task.job_id)

    def _stage_started(self, worker: Worker, task: Task, message: StageStarted) -> None:
        if task.stage_started or task.pending[:1] != (message.stage,):
            log.warning("%s: %s does not start now in its task", worker.worker_id, message.stage)
            return
        task.stage_started = True
        task.since_s = task.stage_since_s = self._now_s()
        self._count_together(worker, message.stage)
        if job := self._job_of(task):
            job.stage_started(self._now_s())

    def _count_together(self, worker: Worker, stage: str) -> None:
        """A further one of its tasks has begun that stage."""
        within = [other for other in worker.batch if other.stage_started and other.pending[:1] == (stage,)]
        for task in within:
            task.n_together = max(task.n_together, len(within))

    def _step_done(self, worker: Worker, task: Task, message: StepDone) -> None:
        job = self._job_of(task)
        in_loop = task.pending[:1] == (self._graph.loop_stage,) and task.stage_started
        if in_loop and task.steps_done < message.step <= task.steps:
            task.n_in_loop += (message.step - task.steps_done) * self._n_in_loop(worker)
            task.steps_done = message.step
            task.since_s = self._now_s()
            if job:
                job.step_done(message.step)

    def _n_in_loop(self, worker: Worker) -> int:
        """How many tasks of a worker are within their loops, which they then share."""
        return sum(
            other.stage_started and other.pending[:1] == (self._graph.loop_stage,) for other in worker.batch
        )

    def _stage_done(self, worker: Worker, task: Task, message: StageDone) -> None:
        if task.pending[:1] != (message.stage,):
            log.warning("%s: %s does not end now in its task", worker.worker_id, message.stage)
            self._discard(message)
            return
        self._measured(worker, task, message)
        self._end_stage(task)
        self.kept.stage_output(self._job_of(task), task, message)
        if not task.pending and self._graph.is_last(message.stage):
            # its picture is encoded beside the device, which may begin the next task
            worker.device_ended(task)

    def _end_stage(self, task: Task) -> None:
        now_s = self._now_s()
        if job := self._job_of(task):
            if not task.stage_started:
                job.stage_started(now_s)
            job.stage_ended(now_s)
        if task.pending[0] == self._graph.loop_stage:
            task.can_pause = False
        task.n_ended += 1
        task.steps_done = 0
        task.n_together = 1
        task.since_s = now_s
        task.stage_started = False

    def _measured(self, worker: Worker, task: Task, message: StageDone) -> None:
        seconds = message.ended_at_s - message.started_at_s
        if not (math.isfinite(seconds) and seconds >= 0):
            log.warning("%s: %s took %s seconds, ignored", worker.worker_id, message.stage, seconds)
            return
        in_loop = message.stage == self._graph.loop_stage
        steps = task.steps - task.from_step if in_loop else 1
        batch = task.batch if in_loop else task.n_together
        self._samples.append(
            StageSample(
                model=task.model,
                stage=message.stage,
                shape=task.shape,
                steps=steps,
                seconds=seconds,
                ended_s=self._now_s(),
                warm_up=task.is_warm_up,
                device=worker.kind,
                worker=worker.worker_id,
                batch=batch,
            )
        )
        job = self._job_of(task)
        self._accounts.stage_ended(
            worker,
            task,
            self._graph.stage(message.stage),
            message,
            steps=steps,
            from_step=task.from_step if in_loop else 0,
            batch=batch,
            request_id=job.request_id if job else None,
        )

    def _task_done(self, worker: Worker, task: Task, message: TaskDone) -> None:
        worker.ended(task)
        if task.is_warm_up:
            self.warm_ups.done(worker, task, message.output)
            return
        job = self._job_of(task)
        if job is None:
            self._handoffs.discard(message.output)
            return
        stage = task.stages[-1]
        kept = weakest((message.exactness, task.from_exactness))
        if not job.allows(kept):
            self._handoffs.discard(message.output)
            self._setbacks.promise_broken(job, stage, kept)
            return
        if not self._handoffs.own(message.output):
            self._setbacks.wrong_output(job, stage)
            return
        while task.pending:
            # a worker that skipped a message has the output all the same
            self._end_stage(task)
        self._handoffs.free(*job.keep(message.output))
        job.exactness = weakest((job.exactness, kept))
        self.kept.encoded(job, stage, kept)
        if job.state is State.FINISHING:
            self._deliver(job)

    def _task_failed(self, worker: Worker, task: Task, message: TaskFailed) -> None:
        worker.ended(task)
        log.warning("%s: %s failed (%s): %s", worker.worker_id, message.stage, message.kind, message.reason)
        if task.is_warm_up:
            self.warm_ups.failed(worker, task, message.kind, shown(message.reason))
        elif job := self._job_of(task):
            self._setbacks.task_failed(job, message)

    def _task_cancelled(self, worker: Worker, task: Task, message: TaskCancelled) -> None:
        worker.ended(task)
        if job := self._job_of(task):
            # nobody asked for it: counted like a death, so that a worker cannot do so for ever
            self._setbacks.work_lost(job, task.stages[-1], f"{worker.worker_id} gave it up", Retry.GIVEN_UP)

    def _checkpoint_saved(self, worker: Worker, task: Task, message: CheckpointSaved) -> None:
        self.kept.checkpoint(self._job_of(task), task, message)

    def _task_paused(self, worker: Worker, task: Task, message: TaskPaused) -> None:
        worker.ended(task)
        job = self._job_of(task)
        if job is None or not task.pausing:
            self._handoffs.discard(message.checkpoint)
            if job is not None:
                # as if it had given it up
                self._setbacks.work_lost(
                    job, task.stages[-1], f"{worker.worker_id} paused it unasked", Retry.GIVEN_UP
                )
            return
        self._accounts.loop_left(
            worker,
            task,
            self._graph.stage(self._graph.loop_stage),
            steps=message.step - task.from_step,
            request_id=job.request_id,
            at_s=self._now_s(),
        )
        if not self.kept.paused(job, task, message):
            # what its loop began with did not fit into the store
            self._setbacks.store_full(job)

    def _discard(self, message: TaskMessage) -> None:
        if (handle := file_of(message)) is not None:
            self._handoffs.discard(handle)
