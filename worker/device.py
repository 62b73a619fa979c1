"""The device loop: one thread that loads, evicts and runs, in the order in which it was told.

It emits messages through a callback and never touches a socket. Picture files are encoded in a thread beside
it, so that the device can begin the next task; that task's terminal message comes from there.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import msgspec
import torch

from pipelines.catalogue import from_entry
from pipelines.derive import derive
from pipelines.errors import PipelineError
from wire.errors import HandoffLost, StoreFull
from wire.handle import Handle
from wire.handoff import HandoffStore
from wire.to_gateway import (
    CheckpointSaved,
    Described,
    DescribeFailed,
    FailureKind,
    LoadFailed,
    Phase,
    StageDone,
    StagesLoaded,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
    ToGateway,
)
from wire.to_worker import Describe, EvictStages, LoadStages, RunTask
from worker.checkpoint import Checkpoint
from worker.errors import LoadRefused, PausedAtBoundary, StopAtBoundary, WorkerError
from worker.loop_tap import Capture
from worker.packing import pack, unpack
from worker.pictures import decode_picture, encode_png
from worker.resident import ResidentModel
from worker.stages import StageRun

Command = Describe | LoadStages | EvictStages | RunTask
Emit = Callable[[ToGateway], None]


@dataclass(frozen=True)
class Doing:
    """What the device thread is at, for heartbeats."""

    phase: Phase
    since_s: float
    task_id: str | None = None
    stage: str | None = None
    step: int = 0


class DeviceLoop:
    """Commands in, messages out. `run` blocks until `stop`; everything else may be called from any thread."""

    def __init__(self, device: torch.device, store: HandoffStore, emit: Emit) -> None:
        self._device = device
        self._store = store
        self._emit = emit
        self._models: dict[str, ResidentModel] = {}
        # unbounded here: the gateway keeps at most one task and a few loads outstanding per worker
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._unfinished: set[str] = set()
        self._cancelled: set[str] = set()
        self._pausing: set[str] = set()
        self._stopping = threading.Event()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self.doing = Doing(Phase.IDLE, time.monotonic())

    def submit(self, command: Command) -> None:
        """Queue one command."""
        if isinstance(command, RunTask):
            self._unfinished.add(command.task_id)
        self._commands.put(command)

    def cancel(self, task_id: str) -> None:
        """Stop that task at its next step boundary, or before it begins. Other ids are ignored."""
        if task_id in self._unfinished:
            self._cancelled.add(task_id)

    def pause(self, task_id: str) -> None:
        """Leave that task's loop at its next step boundary with a checkpoint. Other ids are ignored."""
        if task_id in self._unfinished:
            self._pausing.add(task_id)

    def stop(self) -> None:
        """Leave after the running task reached a boundary; queued commands are dropped."""
        self._stopping.set()
        self._commands.put(None)

    def run(self) -> None:
        """The loop itself, on the calling thread."""
        while (command := self._commands.get()) is not None and not self._stopping.is_set():
            match command:
                case Describe():
                    self._describe(command)
                case LoadStages():
                    self._load(command)
                case EvictStages():
                    if (resident := self._models.get(command.model)) is not None:
                        resident.evict(command.stages)
                case RunTask():
                    self._run_task(command)
            self.doing = Doing(Phase.IDLE, time.monotonic())
        self.doing = Doing(Phase.STOPPING, time.monotonic())
        self._encoder.shutdown(wait=True)

    def _describe(self, command: Describe) -> None:
        try:
            graphs = derive(command.model, from_entry(command.entry))
        except PipelineError as error:
            self._emit(DescribeFailed(model=command.model, reason=str(error)))
        else:
            self._emit(Described(model=command.model, graphs=msgspec.to_builtins(graphs)))

    def _load(self, command: LoadStages) -> None:
        started_s = time.monotonic()
        self.doing = Doing(Phase.LOADING, started_s)
        try:
            resident = self._models.get(command.model)
            if resident is None:
                model = from_entry(command.entry)
                resident = ResidentModel(command.model, model, self._device)
            resident.load(command.stages)
        except (PipelineError, WorkerError, torch.OutOfMemoryError) as error:
            self._emit(LoadFailed(model=command.model, stages=command.stages, reason=str(error)))
            return
        self._models[command.model] = resident
        self._emit(
            StagesLoaded(
                model=command.model,
                stages=command.stages,
                load_s=time.monotonic() - started_s,
                resident_bytes=sum(model.resident_bytes for model in self._models.values()),
            )
        )

    def _run_task(self, task: RunTask) -> None:
        """Exactly one of TaskDone, TaskFailed and TaskCancelled is emitted for `task`."""
        self.doing = Doing(Phase.RUNNING, time.monotonic(), task.task_id, task.stages[0])
        try:
            self._run_stages(task)
        except StopAtBoundary as stopped:
            self._emit(TaskCancelled(task_id=task.task_id, step=stopped.steps_done))
        except PausedAtBoundary as paused:
            self._emit(TaskPaused(task_id=task.task_id, step=paused.steps_done, checkpoint=paused.checkpoint))
        except Exception as error:  # a family's own code may raise anything; the task answers for it
            self._emit(_failure(task, self.doing.stage or task.stages[0], error))
        finally:
            self._unfinished.discard(task.task_id)
            self._cancelled.discard(task.task_id)
            self._pausing.discard(task.task_id)

    def _run_stages(self, task: RunTask) -> None:
        resident = self._models.get(task.model)
        if resident is None:
            raise LoadRefused(f"model {task.model} is not loaded on this worker")
        unpack_from_s = time.monotonic()
        run, checkpoint = self._prepared(resident, task)
        overhead_s = time.monotonic() - unpack_from_s
        for stage in task.stages:
            self._check_stop(task, 0)
            started_s = time.monotonic()
            self.doing = Doing(Phase.RUNNING, started_s, task.task_id, stage)
            self._emit(StageStarted(task_id=task.task_id, stage=stage, started_at_s=started_s))
            run.run(stage, functools.partial(self._boundary, task), checkpoint)
            checkpoint = None
            ended_s = time.monotonic()
            done = StageDone(
                task_id=task.task_id,
                stage=stage,
                started_at_s=started_s,
                ended_at_s=ended_s,
                overhead_s=overhead_s,
            )
            overhead_s = 0.0
            if stage != task.stages[-1]:
                self._emit(self._kept(done, run) if stage == task.keep_after else done)
        last = task.stages[-1]
        if resident.graphs[task.generation.workflow].is_last(last):
            self._emit(done)
            self._encoder.submit(self._finish, task, run.output())
            return
        data, tensors = pack(run.payload(last))
        output = self._store.put(data, tensors=tensors)
        packed_s = time.monotonic() - ended_s
        self._emit(msgspec.structs.replace(done, overhead_s=done.overhead_s + packed_s))
        self._emit(TaskDone(task_id=task.task_id, output=output))

    def _prepared(self, resident: ResidentModel, task: RunTask) -> tuple[StageRun, Checkpoint | None]:
        """The run of `task` with what it starts from. Raises `HandoffLost`, `HandoffRefused`."""
        payload = None if task.handoff is None else unpack(self._store.get(task.handoff))
        image = task.generation.image
        picture = None if image is None else decode_picture(self._store.get(image))
        checkpoint = None
        if task.checkpoint is not None:
            checkpoint = Checkpoint.of(unpack(self._store.get(task.checkpoint)).to(self._device))
        return StageRun(resident, task.generation, payload, picture), checkpoint

    def _kept(self, done: StageDone, run: StageRun) -> StageDone:
        """`done` with its stage's output in the store; without if the store is full, which is no failure."""
        packing_from_s = time.monotonic()
        data, tensors = pack(run.payload(done.stage))
        try:
            output = self._store.put(data, tensors=tensors)
        except StoreFull:
            output = None
        packed_s = time.monotonic() - packing_from_s
        return msgspec.structs.replace(done, output=output, overhead_s=done.overhead_s + packed_s)

    def _finish(self, task: RunTask, pixels: torch.Tensor) -> None:
        try:
            output = self._store.put(encode_png(pixels))
        except Exception as error:  # this thread has nobody else to answer for the task
            self._emit(_failure(task, task.stages[-1], error))
        else:
            self._emit(TaskDone(task_id=task.task_id, output=output))

    def _boundary(self, task: RunTask, steps_done: int, steps: int, capture: Capture) -> None:
        self.doing = replace(self.doing, since_s=time.monotonic(), step=steps_done)
        if steps_done > 0:
            self._emit(
                StepDone(task_id=task.task_id, step=steps_done, steps=steps, done_at_s=time.monotonic())
            )
        if steps_done < steps:
            self._check_stop(task, steps_done)
            if task.task_id in self._pausing:
                raise PausedAtBoundary(steps_done, self._save(capture()))
            if task.checkpoint_every and steps_done and steps_done % task.checkpoint_every == 0:
                self._emit(self._saved(task, capture()))

    def _saved(self, task: RunTask, checkpoint: Checkpoint) -> CheckpointSaved:
        try:
            handle, reason = self._save(checkpoint), ""
        except StoreFull as full:
            handle, reason = None, str(full)
        return CheckpointSaved(task_id=task.task_id, step=checkpoint.step, checkpoint=handle, reason=reason)

    def _save(self, checkpoint: Checkpoint) -> Handle:
        data, tensors = pack(checkpoint.payload())
        return self._store.put(data, tensors=tensors)

    def _check_stop(self, task: RunTask, steps_done: int) -> None:
        if task.task_id in self._cancelled or self._stopping.is_set():
            raise StopAtBoundary(steps_done)


def _failure(task: RunTask, stage: str, error: Exception) -> TaskFailed:
    match error:
        case StoreFull():
            kind = FailureKind.STORE_FULL
        case HandoffLost():
            kind = FailureKind.HANDOFF_LOST
        case torch.OutOfMemoryError() | MemoryError():
            kind = FailureKind.OUT_OF_MEMORY
        case _:
            kind = FailureKind.INTERNAL
    reason = f"{type(error).__name__}: {error}"
    return TaskFailed(task_id=task.task_id, stage=stage, kind=kind, reason=reason)
