"""One task on one worker, from `RunTask` to its terminal message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.types import RunningTask, Shape
from wire.generation import Exactness
from wire.handle import Handle
from wire.to_gateway import (
    CheckpointSaved,
    StageDone,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
    ToGateway,
)

TaskMessage = (
    StageStarted | StepDone | StageDone | CheckpointSaved | TaskDone | TaskFailed | TaskCancelled | TaskPaused
)


@dataclass(slots=True, eq=False)
class Task:
    """`job_id` is None for a warm-up. `n_ended` of `stages` have ended, `steps_done` of the running loop.

    Its loop begins behind `from_step` steps, which kept `from_exactness`. `moved_at_s` is when it was
    last heard to get on, `beaten_at` the stage and step that its worker's last heartbeat told, `since_s` when
    its pending stage or the last step of its loop was heard of; `stage_started` whether the next stage has
    begun, `stage_since_s` when that was heard; `n_together`: the most tasks of its worker that were within
    that stage at once, itself among them. `n_in_loop` sums up, over the steps heard of, how many tasks of its
    worker were in their loops. `keep_after` and `checkpoint_every` are what it was asked to write
    beside its output. `can_pause`: its loop is still to end, and what that begins with is or will be durable.
    """

    task_id: str
    job_id: str | None
    model: str
    stages: tuple[str, ...]
    shape: Shape
    steps: int
    sent_s: float
    moved_at_s: float
    since_s: float = 0.0
    beaten_at: tuple[str | None, int] | None = None
    n_ended: int = 0
    from_step: int = 0
    from_exactness: Exactness = Exactness.BITWISE
    steps_done: int = 0
    n_together: int = 1
    stage_started: bool = False
    stage_since_s: float = 0.0
    n_in_loop: int = 0
    keep_after: str | None = None
    checkpoint_every: int = 0
    can_pause: bool = False
    pausing: bool = False

    @property
    def is_warm_up(self) -> bool:
        return self.job_id is None

    @property
    def pending(self) -> tuple[str, ...]:
        return self.stages[self.n_ended :]

    @property
    def left(self) -> tuple[int, int]:
        """How much of it is to be done: stages, then steps."""
        return len(self.pending), self.steps - self.steps_done

    @property
    def batch(self) -> int:
        """How many tasks shared the steps of its loop that were heard of, on average; itself is one."""
        n_steps = self.steps_done - self.from_step
        return max(1, round(self.n_in_loop / n_steps)) if n_steps > 0 else 1


def view_of(batch: Sequence[Task]) -> RunningTask:
    """The tasks that have a device as the planner sees them: as one, which is where the last of them is.

    A warm-up keeps its worker busy for nobody. One of several cannot be paused for the others.
    """
    last = max(batch, key=lambda task: task.left)
    others = [task for task in batch if task is not last]
    return RunningTask(
        task_id=last.task_id,
        job_ids=tuple(task.job_id for task in (last, *others) if task.job_id is not None),
        model=last.model,
        pending=last.pending,
        shape=last.shape,
        steps=last.steps,
        steps_done=last.steps_done,
        started_s=min(task.sent_s for task in batch),
        can_pause=last.can_pause and not others,
        pausing=any(task.pausing for task in batch),
        since_s=last.since_s,
        steps_before=last.from_step,
    )


def file_of(message: ToGateway) -> Handle | None:
    """The handoff file that `message` names, if any."""
    match message:
        case TaskDone(output=Handle() as handle) | StageDone(output=Handle() as handle):
            return handle
        case CheckpointSaved(checkpoint=Handle() as handle) | TaskPaused(checkpoint=Handle() as handle):
            return handle
        case _:
            return None
