"""Messages that the gateway receives from workers. Times (`_at_s`) are the node's monotonic clock."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from wire.generation import Exactness
from wire.handle import Handle


class Phase(enum.StrEnum):
    """What a worker's device thread is doing, as its heartbeat tells."""

    STARTING = "starting"
    IDLE = "idle"
    LOADING = "loading"
    MEASURING = "measuring"
    RUNNING = "running"
    STOPPING = "stopping"


class FailureKind(enum.StrEnum):
    """Whose fault a failed task is, as far as the worker can tell."""

    INPUT = "input"
    INTERNAL = "internal"
    OUT_OF_MEMORY = "out_of_memory"
    STORE_FULL = "store_full"
    HANDOFF_LOST = "handoff_lost"


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first message of a worker. `device` is "cpu" or "cuda:N".

    `memory_bytes`: what it may hold, as it was told or as its GPU has; None for no bound.
    """

    protocol_version: int
    worker: str
    pid: int
    node: str
    device: str
    device_name: str
    threads: int
    memory_bytes: int | None = None


class Described(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The stage graphs of a model by workflow, in builtin types (`pipelines.graph.StageGraph`).

    `weight_bytes`: of each stage's parts on this worker; a part counts in every stage that needs it.
    """

    model: str
    graphs: dict[str, dict[str, Any]]
    weight_bytes: dict[str, int] = {}


class DescribeFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    model: str
    reason: str


class ProfileProgress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A line for the log while a model is measured."""

    model: str
    text: str


class ProfileMeasured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What the stages cost, in builtin types (`planner.measurements.Measurements`, `device` still empty).

    Among it, which way of a call was the fastest, for `UseKernels`.
    """

    model: str
    profile: dict[str, Any]


class ProfileFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    model: str
    reason: str


class StagesLoaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `LoadStages`. `resident_bytes` counts all weights this worker holds, each part once.

    `host_bytes`: of the node's host copies of weights, which all its workers share and tell alike. `origins`:
    where each part that was not there came from, "held" (by another model), "host" or "disk". `notes`: why a
    part has no host copy.
    """

    model: str
    stages: tuple[str, ...]
    load_s: float
    resident_bytes: int
    host_bytes: int = 0
    origins: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class LoadFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    model: str
    stages: tuple[str, ...]
    reason: str


class StagesEvicted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `EvictStages`. `resident_bytes` counts the weights that this worker still holds."""

    model: str
    stages: tuple[str, ...]
    resident_bytes: int
    host_bytes: int = 0


class ModelForgotten(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to `ForgetModel`: what was said of that model before is void.

    `resident_bytes` counts the weights that this worker still holds, `host_bytes` those of the node's host
    copies. A copy leaves with the last worker that forgets the models it is for.
    """

    model: str
    resident_bytes: int
    host_bytes: int = 0


class StageStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    task_id: str
    stage: str
    started_at_s: float


class StepDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A step boundary of the denoise loop was passed: `step` of `steps` are done."""

    task_id: str
    step: int
    steps: int
    done_at_s: float


class StageDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One stage of a task ended. `overhead_s` of it went to packing or unpacking its handoff.

    `output`: its handoff file, where the task asked to keep it behind this stage and it fitted; `exactness`:
    of that file, as in `TaskDone`.
    """

    task_id: str
    stage: str
    started_at_s: float
    ended_at_s: float
    overhead_s: float = 0.0
    output: Handle | None = None
    exactness: Exactness = Exactness.BITWISE


class CheckpointSaved(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The loop of a task can be continued after `step` steps, from any process of the node.

    `checkpoint` None: it could not be written, `reason` says why; the task goes on. `exactness`: of the steps
    that it holds, as in `TaskDone`; what goes on from it is no better.
    """

    task_id: str
    step: int
    checkpoint: Handle | None
    reason: str = ""
    exactness: Exactness = Exactness.BITWISE


class TaskDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All stages of a task ended. `output` is a handoff file, or an encoded picture after the last stage.

    `exactness` is what its stages kept of the promise: BITWISE unless something in this task lowered it, as
    sharing a call of the network with another task does (NUMERIC).
    """

    task_id: str
    output: Handle
    exactness: Exactness = Exactness.BITWISE


class TaskFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    task_id: str
    stage: str
    kind: FailureKind
    reason: str


class TaskCancelled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A cancelled task has stopped; `step` steps of its loop had been done."""

    task_id: str
    step: int


class TaskPaused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A task left its loop after `step` steps, as asked; `checkpoint` continues it anywhere on the node.

    `exactness`: of the steps that it holds, as in `TaskDone`; what goes on from it is no better.
    """

    task_id: str
    step: int
    checkpoint: Handle
    exactness: Exactness = Exactness.BITWISE


class KernelCalls(msgspec.Struct, frozen=True, kw_only=True):
    """So many calls of `op` went to `path`, "triton" or "torch", since the worker's process began.

    `reason`: why they fell back to torch, "" for the kernel's and for torch's where that was measured faster.
    """

    op: str
    path: str
    reason: str
    calls: int


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent at an interval by the thread that owns the socket, whatever the device thread does."""

    phase: Phase
    since_s: float
    task_id: str | None = None
    stage: str | None = None
    step: int = 0
    kernels: tuple[KernelCalls, ...] = ()


class Goodbye(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The last message of a worker that leaves by itself."""

    reason: str


ToGateway = (
    Hello
    | Described
    | DescribeFailed
    | ProfileProgress
    | ProfileMeasured
    | ProfileFailed
    | StagesLoaded
    | LoadFailed
    | StagesEvicted
    | ModelForgotten
    | StageStarted
    | StepDone
    | StageDone
    | CheckpointSaved
    | TaskDone
    | TaskFailed
    | TaskCancelled
    | TaskPaused
    | Heartbeat
    | Goodbye
)
