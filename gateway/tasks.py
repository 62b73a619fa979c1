"""One task on one worker, from `RunTask` to its terminal message."""

from __future__ import annotations

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
    last heard to get on, `beaten_at` the stage and step that its worker's last heartbeat told;
    `stage_started` whether the next stage has begun. `keep_after` and `checkpoint_every` are what it was
    asked to write beside its output. `can_pause`: its loop is still to end, and what that begins with is
    or will be durable.
    """

    task_id: str
    job_id: str | None
    model: str
    stages: tuple[str, ...]
    shape: Shape
    steps: int
    sent_s: float
    moved_at_s: float
    beaten_at: tuple[str | None, int] | None = None
    n_ended: int = 0
    from_step: int = 0
    from_exactness: Exactness = Exactness.BITWISE
    steps_done: int = 0
    stage_started: bool = False
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

    def view(self) -> RunningTask:
        """What the planner sees: a warm-up keeps its worker busy for nobody."""
        return RunningTask(
            task_id=self.task_id,
            job_ids=() if self.job_id is None else (self.job_id,),
            model=self.model,
            pending=self.pending,
            shape=self.shape,
            steps=self.steps,
            steps_done=self.steps_done,
            started_s=self.sent_s,
            can_pause=self.can_pause,
            pausing=self.pausing,
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
