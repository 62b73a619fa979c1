"""Tasks on workers: how they start, get on and end, and what each end means for the job. No sockets here.

Every handler runs to its end without awaiting, so a message is either fully told of or not at all. Late
messages, of tasks that are no longer a worker's current one, change nothing; files they name are freed.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from gateway.accounts import Accounts, Retry
from gateway.decisions import shape_of
from gateway.desk import Desk
from gateway.encodes import EncodeCache
from gateway.fleet import Fleet, Worker
from gateway.handoffs import Handoffs
from gateway.job import Job, weakest
from gateway.kept import Kept
from gateway.lifecycle import State
from gateway.setbacks import Setbacks, shown
from gateway.tasks import Task
from gateway.warmup import WarmUps
from pipelines.catalogue import Model
from pipelines.graph import StageGraph
from planner.types import Shape, StageSample
from wire.generation import Exactness, Generation
from wire.handle import Handle
from wire.to_gateway import (
    CheckpointSaved,
    FailureKind,
    StageDone,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
    ToGateway,
)
from wire.to_worker import CancelTask, PauseTask, RunTask, ToWorker

log = logging.getLogger(__name__)

WARM_UP_HOLD_S = 1.0

TaskMessage = (
    StageStarted | StepDone | StageDone | CheckpointSaved | TaskDone | TaskFailed | TaskCancelled | TaskPaused
)


class Owner(Protocol):
    """Who holds the runs: the engine."""

    def now_s(self) -> float: ...

    def send(self, worker_id: str, message: ToWorker) -> None: ...

    def deliver(self, job: Job) -> None: ...

    def warmed(self, worker: Worker, stage: str) -> None: ...

    def warm_up_failed(self, worker: Worker, stage: str, reason: str) -> None: ...


class Runs:
    """The tasks of one model on the fleet."""

    def __init__(
        self,
        owner: Owner,
        desk: Desk,
        *,
        graph: StageGraph,
        model: Model,
        warm_up: Generation,
        checkpoint_every: int,
        fleet: Fleet,
        handoffs: Handoffs,
        encodes: EncodeCache,
        accounts: Accounts,
    ) -> None:
        self._owner = owner
        self._desk = desk
        self._setbacks = Setbacks(desk, handoffs, encodes, accounts, clock=owner.now_s)
        self._kept = Kept(
            graph, handoffs, encodes, accounts, checkpoint_every=checkpoint_every, clock=owner.now_s
        )
        self._graph = graph
        self._fleet = fleet
        self._handoffs = handoffs
        self._encodes = encodes
        self._accounts = accounts
        self._warm_up = warm_up
        self._warm_up_shape = shape_of(self._warm_up, model)
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
        self.warm_ups = WarmUps(graph)
        self._samples: list[StageSample] = []

    def take_samples(self) -> tuple[StageSample, ...]:
        """The stages that ended since this was last called."""
        samples, self._samples = tuple(self._samples), []
        return samples

    def skip_encode(self, job: Job) -> None:
        """What a job that waits to be encoded would be encoded to may be known by now."""
        self._kept.skip_encode(job)

    def dispatch(self, worker: Worker, job: Job, stages: tuple[str, ...]) -> None:
        """Send the next `stages` of `job` to a free `worker`, a loop from the job's checkpoint on."""
        loop_stage = self._graph.loop_stage
        if stages[0] == self._graph.names[0] and job.encode_key is not None:
            self._encodes.missed()
        keep_after = self._kept.keep_after(stages)
        checkpoint = job.checkpoint if stages[0] == loop_stage else None
        task = self._task(worker, job.job_id, stages, job.generation, job.shape)
        task.keep_after = keep_after
        task.checkpoint_every = self._kept.checkpoint_every if loop_stage in stages else 0
        task.can_pause = loop_stage in stages and (stages[0] == loop_stage or keep_after is not None)
        if checkpoint is not None:
            task.from_step = task.steps_done = checkpoint.step
            task.from_exactness = checkpoint.exactness
        job.task_id = task.task_id
        message = RunTask(
            task_id=task.task_id,
            job_id=job.job_id,
            model=task.model,
            stages=stages,
            generation=job.generation,
            handoff=job.handoff,
            keep_after=keep_after,
            checkpoint=checkpoint.handle if checkpoint else None,
            checkpoint_every=task.checkpoint_every,
        )
        self._owner.send(worker.worker_id, message)

    def pause(self, task: Task, worker: Worker) -> None:
        """Ask for a checkpoint and the device; the answer may still be that the task ended."""
        task.pausing = True
        self._owner.send(worker.worker_id, PauseTask(task_id=task.task_id))

    def warm_up(self, worker: Worker) -> bool:
        """Give a free `worker` the next stage that it has loaded and never run. False if there is none."""
        due = self.warm_ups.next_for(worker, self._owner.now_s())
        if due is None:
            return False
        stage, handoff = due
        task = self._task(worker, None, (stage,), self._warm_up, self._warm_up_shape)
        message = RunTask(
            task_id=task.task_id,
            job_id=task.task_id,
            model=task.model,
            stages=task.stages,
            generation=self._warm_up,
            handoff=handoff,
        )
        self._owner.send(worker.worker_id, message)
        return True

    def heard(self, worker: Worker, message: TaskMessage) -> None:
        """A message about a task. Never raises, whatever the worker says."""
        task = worker.task_of(message.task_id)
        if task is None:
            self.discard(message)
            log.debug("%s: late %s of task %s", worker.worker_id, type(message).__name__, message.task_id)
            return
        task.moved_at_s = self._owner.now_s()
        self._handlers[type(message)](worker, task, message)

    def discard(self, message: ToGateway) -> None:
        """Free the file of a message that comes too late, unless somebody owns it."""
        match message:
            case TaskDone(output=Handle() as handle) | StageDone(output=Handle() as handle):
                self._handoffs.discard(handle)
            case CheckpointSaved(checkpoint=Handle() as handle) | TaskPaused(checkpoint=Handle() as handle):
                self._handoffs.discard(handle)

    def abandon(self, job: Job) -> None:
        """`job` has ended: its task is cancelled at the next step boundary, its files freed now."""
        for worker in self._fleet.up():
            if worker.task is not None and worker.task.task_id == job.task_id:
                self._owner.send(worker.worker_id, CancelTask(task_id=worker.task.task_id))
        self._handoffs.free(*job.forget_all())

    def worker_lost(self, worker_id: str, task: Task, reason: str) -> None:
        """The worker that had `task` is gone: its job goes back, or ends if it is poison."""
        self._handoffs.free_task(task.task_id)
        job = self._job_of(task)
        if job is not None:
            self._setbacks.work_lost(
                job, task.stages[-1], f"{worker_id} was lost ({reason})", Retry.WORKER_LOST
            )

    def handoff_lost(self, job: Job) -> None:
        """A file of a job that no worker has is gone."""
        self._setbacks.handoff_lost(job)

    def _task(
        self,
        worker: Worker,
        job_id: str | None,
        stages: tuple[str, ...],
        generation: Generation,
        shape: Shape,
    ) -> Task:
        now_s = self._owner.now_s()
        prefix = "task" if job_id else "warm-up"
        worker.task = Task(
            task_id=f"{prefix}-{uuid.uuid4().hex}",
            job_id=job_id,
            model=self._graph.model,
            stages=stages,
            shape=shape,
            steps=generation.num_inference_steps,
            sent_s=now_s,
            moved_at_s=now_s,
        )
        return worker.task

    def _job_of(self, task: Task) -> Job | None:
        """The open job that waits for `task`; None for a warm-up, or if the job has ended meanwhile."""
        return None if task.job_id is None else self._desk.book.job(task.job_id)

    def _stage_started(self, worker: Worker, task: Task, message: StageStarted) -> None:
        if task.stage_started or task.pending[:1] != (message.stage,):
            log.warning("%s: %s does not start now in its task", worker.worker_id, message.stage)
            return
        task.stage_started = True
        if job := self._job_of(task):
            job.stage_started(self._owner.now_s())

    def _step_done(self, worker: Worker, task: Task, message: StepDone) -> None:
        job = self._job_of(task)
        in_loop = task.pending[:1] == (self._graph.loop_stage,) and task.stage_started
        if in_loop and task.steps_done < message.step <= task.steps:
            task.steps_done = message.step
            if job:
                job.step_done(message.step)

    def _stage_done(self, worker: Worker, task: Task, message: StageDone) -> None:
        if task.pending[:1] != (message.stage,):
            log.warning("%s: %s does not end now in its task", worker.worker_id, message.stage)
            self.discard(message)
            return
        self._measured(worker, task, message)
        self._end_stage(task)
        self._kept.stage_output(self._job_of(task), task, message)
        if not task.pending and self._graph.is_last(message.stage):
            # its picture is encoded beside the device, which may begin the next task
            worker.device_ended(task)

    def _end_stage(self, task: Task) -> None:
        now_s = self._owner.now_s()
        if job := self._job_of(task):
            if not task.stage_started:
                job.stage_started(now_s)
            job.stage_ended(now_s)
        if task.pending[0] == self._graph.loop_stage:
            task.can_pause = False
        task.n_ended += 1
        task.steps_done = 0
        task.stage_started = False

    def _measured(self, worker: Worker, task: Task, message: StageDone) -> None:
        seconds = message.ended_at_s - message.started_at_s
        if not (math.isfinite(seconds) and seconds >= 0):
            log.warning("%s: %s took %s seconds, ignored", worker.worker_id, message.stage, seconds)
            return
        in_loop = message.stage == self._graph.loop_stage
        steps = task.steps - task.from_step if in_loop else 1
        self._samples.append(
            StageSample(
                model=task.model,
                stage=message.stage,
                shape=task.shape,
                steps=steps,
                seconds=seconds,
                ended_s=self._owner.now_s(),
                warm_up=task.is_warm_up,
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
            request_id=job.request_id if job else None,
        )

    def _task_done(self, worker: Worker, task: Task, message: TaskDone) -> None:
        worker.ended(task)
        job = self._job_of(task)
        if not (task.is_warm_up or job):
            self._handoffs.discard(message.output)
            return
        stage = task.stages[-1]
        kept = weakest((message.exactness, task.from_exactness))
        if job and not job.allows(kept):
            self._handoffs.discard(message.output)
            self._setbacks.promise_broken(job, stage, kept)
            return
        if not self._handoffs.own(message.output):
            if job:
                self._setbacks.wrong_output(job, stage)
            else:
                self._owner.warm_up_failed(worker, stage, "its output is the file of another task")
            return
        if job is None:
            if not self.warm_ups.ended(stage, message.output):
                self._handoffs.free(message.output)
            self._owner.warmed(worker, stage)
            return
        while task.pending:
            # a worker that skipped a message has the output all the same
            self._end_stage(task)
        self._handoffs.free(*job.keep(message.output))
        job.exactness = weakest((job.exactness, kept))
        if kept is Exactness.BITWISE:
            # what another job may begin with must not lower what that one asked for
            self._kept.encoded(job, stage)
        if job.state is State.FINISHING:
            self._owner.deliver(job)

    def _task_failed(self, worker: Worker, task: Task, message: TaskFailed) -> None:
        worker.ended(task)
        log.warning("%s: %s failed (%s): %s", worker.worker_id, message.stage, message.kind, message.reason)
        if task.is_warm_up:
            self._warm_up_failed(worker, task, message.kind, shown(message.reason))
        elif job := self._job_of(task):
            self._setbacks.task_failed(job, message)

    def _warm_up_failed(self, worker: Worker, task: Task, kind: FailureKind, reason: str) -> None:
        stage = task.stages[-1]
        if kind is FailureKind.HANDOFF_LOST and stage != self._graph.names[0]:
            if (lost := self.warm_ups.input_lost(stage, self._fleet)) is not None:
                self._handoffs.free(lost)
        elif kind is FailureKind.STORE_FULL:
            self.warm_ups.hold_until_s = self._owner.now_s() + WARM_UP_HOLD_S
        else:
            self._owner.warm_up_failed(worker, stage, reason)

    def _task_cancelled(self, worker: Worker, task: Task, message: TaskCancelled) -> None:
        worker.ended(task)
        if job := self._job_of(task):
            # nobody asked for it: counted like a death, so that a worker cannot do so for ever
            self._setbacks.work_lost(job, task.stages[-1], f"{worker.worker_id} gave it up", Retry.GIVEN_UP)

    def _checkpoint_saved(self, worker: Worker, task: Task, message: CheckpointSaved) -> None:
        self._kept.checkpoint(self._job_of(task), task, message)

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
        elif not self._kept.paused(job, task, message):
            # what its loop began with did not fit into the store
            self._setbacks.store_full(job)
