"""What is kept of a job while its task still runs, so that another worker can go on from there. No sockets.

That is the output of its last encode stage, which later requests may share, and the newest checkpoint of its
loop. A worker writes both beside its work and tells of them; neither ever fails a task. What does not fit
what was asked is freed, unless somebody owns it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.accounts import Accounts, Retry
from gateway.encodes import EncodeCache, Encoded
from gateway.handoffs import Handoffs
from gateway.job import Checkpoint, Job
from gateway.lifecycle import State
from gateway.tasks import Task
from pipelines.graph import StageGraph
from wire.generation import Exactness, weakest
from wire.to_gateway import CheckpointSaved, StageDone, TaskPaused

log = logging.getLogger(__name__)


class Kept:
    """`checkpoint_every` steps the loop of a job writes a checkpoint; 0: never."""

    def __init__(
        self,
        graph: StageGraph,
        handoffs: Handoffs,
        encodes: EncodeCache,
        accounts: Accounts,
        *,
        checkpoint_every: int,
        clock: Callable[[], float],
    ) -> None:
        self.checkpoint_every = checkpoint_every
        self._loop_stage = graph.loop_stage
        self._last_encode = next((s.name for s in reversed(graph.stages) if s.kind == "encode"), None)
        self._handoffs = handoffs
        self._encodes = encodes
        self._accounts = accounts
        self._now_s = clock

    def keep_after(self, stages: tuple[str, ...]) -> str | None:
        """The stage within a task of `stages` whose output is to be written as well, if any."""
        wanted = self._encodes.is_on or (self.checkpoint_every > 0 and self._loop_stage in stages)
        return self._last_encode if wanted and self._last_encode in stages[:-1] else None

    def stage_output(self, job: Job | None, task: Task, message: StageDone) -> None:
        """A stage of `task` ended, and its `output` may have been kept."""
        asked = message.stage == task.keep_after
        if message.output is None:
            if asked:
                self._store_is_full(task, message.stage)
                # a checkpoint is no use without what the loop began with
                task.can_pause = False
            return
        if job is None or not asked or not job.allows(message.exactness):
            # a promise that is broken is noticed when the task ends
            self._handoffs.discard(message.output)
        elif self._handoffs.own(message.output):
            self._handoffs.free(*job.keep_within_task(Encoded(message.output, message.exactness)))
            self.encoded(job, message.stage, message.exactness)
        else:
            log.warning("task %s names the file of another task", task.task_id)

    def encoded(self, job: Job, stage: str, exactness: Exactness) -> None:
        """The output of `stage` is the handoff of `job` now: other jobs may begin with it."""
        if stage == self._last_encode and job.handoff is not None:
            self._encodes.put(job.encode_key, job.handoff, exactness)
        self._encodes.give_way()

    def skip_encode(self, job: Job) -> None:
        """Let a job that waits to be encoded go on from a known result, if there is one."""
        if job.state is State.QUEUED and job.task_id is None:
            encoded = self._encodes.take(job.encode_key, job.generation.exactness)
            if encoded is not None:
                self._handoffs.free(*job.skip_encode(encoded, self._now_s()))

    def checkpoint(self, job: Job | None, task: Task, message: CheckpointSaved) -> None:
        """The loop of `task` can be continued from `message.step` on."""
        if message.checkpoint is None:
            self._store_is_full(task, self._loop_stage)
            return
        kept = weakest((message.exactness, task.from_exactness))
        if job is None or not task.checkpoint_every or not self._fits(job, task, message.step, kept):
            self._handoffs.discard(message.checkpoint)
        elif self._handoffs.own(message.checkpoint):
            self._handoffs.free(*job.save(Checkpoint(message.step, message.checkpoint, kept)))
            self._accounts.checkpoint_saved(job, message.checkpoint.n_bytes)
            self._encodes.give_way()
        else:
            log.warning("task %s names the file of another task", task.task_id)

    def paused(self, job: Job, task: Task, message: TaskPaused) -> bool:
        """The task of `job` ended with a checkpoint. False if nothing can go on from it."""
        kept = weakest((message.exactness, task.from_exactness))
        if not self._fits(job, task, message.step, kept):
            self._handoffs.discard(message.checkpoint)
            return False
        if not self._handoffs.own(message.checkpoint):
            return False
        if not task.stage_started:
            job.stage_started(self._now_s())
        checkpoint = Checkpoint(message.step, message.checkpoint, kept)
        self._handoffs.free(*job.pause(checkpoint, self._now_s()))
        self._accounts.checkpoint_saved(job, checkpoint.handle.n_bytes)
        self._accounts.retried(job, Retry.PAUSED)
        self._encodes.give_way()
        return True

    def _fits(self, job: Job, task: Task, step: int, kept: Exactness) -> bool:
        in_loop = task.pending[:1] == (self._loop_stage,) and job.allows(kept)
        return in_loop and job.loop_can_resume and job.steps_done <= step < task.steps

    def _store_is_full(self, task: Task, stage: str) -> None:
        """Told before it costs a job anything: what is only kept in case goes first."""
        log.warning("task %s: no room to keep the output of %s", task.task_id, stage)
        self._encodes.clear()
