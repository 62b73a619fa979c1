"""What workers are told to do about the tasks of one model: run, go on, leave the loop. Answers: `runs`."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from gateway.encodes import EncodeCache
from gateway.fleet import Worker
from gateway.job import Job
from gateway.kept import Kept
from gateway.tasks import Task
from pipelines.graph import StageGraph
from planner.types import Shape
from wire.generation import Generation
from wire.handle import Handle
from wire.to_worker import PauseTask, RunTask, ToWorker

Send = Callable[[str, ToWorker], None]
"""Queues a message for a worker."""


class Orders:
    """Each makes the worker's task first, so that no answer finds none."""

    def __init__(
        self,
        graph: StageGraph,
        kept: Kept,
        encodes: EncodeCache,
        *,
        send: Send,
        clock: Callable[[], float],
    ) -> None:
        self._graph = graph
        self._kept = kept
        self._encodes = encodes
        self._send = send
        self._now_s = clock

    def job(self, worker: Worker, job: Job, stages: tuple[str, ...], *, joins: str | None = None) -> None:
        """Send the next `stages` of `job` to `worker`, a loop from the job's checkpoint on.

        The worker is free, or has the task `joins`, whose calls it is to share.
        """
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
            joins=joins,
        )
        self._send(worker.worker_id, message)

    def warm_up(
        self, worker: Worker, stage: str, handoff: Handle | None, generation: Generation, shape: Shape
    ) -> None:
        """Send one stage for nobody to a free `worker`; `handoff` is its input."""
        task = self._task(worker, None, (stage,), generation, shape)
        message = RunTask(
            task_id=task.task_id,
            job_id=task.task_id,
            model=task.model,
            stages=task.stages,
            generation=generation,
            handoff=handoff,
        )
        self._send(worker.worker_id, message)

    def pause(self, task: Task, worker: Worker) -> None:
        """Ask for a checkpoint and the device; the answer may still be that the task ended."""
        task.pausing = True
        self._send(worker.worker_id, PauseTask(task_id=task.task_id))

    def _task(
        self,
        worker: Worker,
        job_id: str | None,
        stages: tuple[str, ...],
        generation: Generation,
        shape: Shape,
    ) -> Task:
        now_s = self._now_s()
        prefix = "task" if job_id else "warm-up"
        task = Task(
            task_id=f"{prefix}-{uuid.uuid4().hex}",
            job_id=job_id,
            model=self._graph.model,
            stages=stages,
            shape=shape,
            steps=generation.num_inference_steps,
            sent_s=now_s,
            moved_at_s=now_s,
            since_s=now_s,
        )
        worker.batch.append(task)
        return task
