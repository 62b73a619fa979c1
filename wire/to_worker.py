"""Messages that a worker receives. The gateway is the only sender.

A worker answers `Describe`, `MeasureProfile`, `LoadStages`, `ForgetModel` and `RunTask` with exactly one
terminal message each (see `wire.to_gateway`); the others are not answered, or only by what they do to a task.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from wire.generation import Generation
from wire.handle import Handle


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to an accepted `Hello`."""

    heartbeat_interval_s: float


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to a `Hello` that cannot be served, e.g. another protocol version. The worker leaves."""

    reason: str


class Describe(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Derive the stage graph of a model. `entry` is a catalogue entry in builtin types."""

    model: str
    entry: dict[str, Any]


class MeasureProfile(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Find out what the stages of a model cost on this device, in about `bound_s` beside what loads take.

    At every one of `generations`, of which the first is the usual one, as far as the time allows; with
    `batches` of jobs too. Nothing of it stays resident. Where kernels are chosen by measurement, that comes
    first, stage by stage, in about `bound_s` as well.
    """

    model: str
    entry: dict[str, Any]
    generations: tuple[Generation, ...]
    batches: tuple[int, ...]
    bound_s: float


class UseKernels(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """From now on these ways of calls, beside those that it was told before, which stay.

    As `planner.measurements.Measurements.kernels` has them. Not answered; sent before the tasks that it is
    for.
    """

    chosen: dict[str, tuple[Literal["triton", "torch"], tuple[int, ...]]]


class LoadStages(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make stages of a model resident. Stages that are resident already cost nothing."""

    model: str
    entry: dict[str, Any]
    stages: tuple[str, ...]


class EvictStages(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Drop stages; a component that another resident stage needs stays. Queued behind a running task."""

    model: str
    stages: tuple[str, ...]


class ForgetModel(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Drop everything of a model, its stages and what is held beside them. Queued behind a running task.

    A model that is not held is forgotten as well.
    """

    model: str


class RunTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run consecutive stages of one job as one call.

    `handoff` is the output of the stage before `stages[0]`, None when that is the first stage. The last
    stage's output is written to the handoff store; outputs between merged stages stay in memory, except the
    output of `keep_after`, which is written too and told in that stage's `StageDone`.

    `checkpoint` continues a loop stage, which is then `stages[0]`, from where it was left; `handoff` is given
    as well. With `checkpoint_every` above 0 the loop writes a checkpoint behind every so many steps. `joins`
    names a task that this worker encodes or runs the loop of: the two go on in one batch, if the worker can,
    and one after the other otherwise. A task is only taken into a batch from the head of the worker's queue.
    """

    task_id: str
    job_id: str
    model: str
    stages: tuple[str, ...]
    generation: Generation
    handoff: Handle | None = None
    keep_after: str | None = None
    checkpoint: Handle | None = None
    checkpoint_every: int = 0
    joins: str | None = None


class CancelTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stop a task at its next step boundary, or drop it if it has not begun. Unknown ids are ignored."""

    task_id: str


class PauseTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Leave a task's loop at its next step boundary with a checkpoint. Unknown ids are ignored.

    A task that ends before it reaches a boundary answers as if it had not been asked.
    """

    task_id: str


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Leave after the running task, if any, was stopped at its next boundary."""


ToWorker = (
    Welcome
    | Refused
    | Describe
    | MeasureProfile
    | UseKernels
    | LoadStages
    | EvictStages
    | ForgetModel
    | RunTask
    | CancelTask
    | PauseTask
    | Stop
)
