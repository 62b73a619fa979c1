"""One task on this worker, from its handoff to its terminal message. Where it computes its seat decides."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import torch

from pipelines.errors import FieldRefused
from wire.errors import HandoffLost, StoreFull
from wire.generation import Exactness
from wire.handle import Handle
from wire.handoff import HandoffStore
from wire.to_gateway import (
    CheckpointSaved,
    FailureKind,
    Phase,
    StageDone,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
    ToGateway,
)
from wire.to_worker import RunTask
from worker.batch import Seat
from worker.checkpoint import Checkpoint
from worker.errors import LoadRefused, PausedAtBoundary, StopAtBoundary
from worker.loop_tap import Capture
from worker.memory import give_back, out_of_memory, told
from worker.packing import pack, unpack
from worker.pictures import decode_picture, encode_picture
from worker.resident import ResidentModel
from worker.stages import StageRun
from worker.wishes import Wishes

Emit = Callable[[ToGateway], None]


@dataclass(frozen=True)
class Doing:
    """What the device thread is at, for heartbeats."""

    phase: Phase
    since_s: float
    task_id: str | None = None
    stage: str | None = None
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every task of a device loop uses. `tell` hears what the device is at, `encoder` makes files."""

    device: torch.device
    store: HandoffStore
    models: dict[str, ResidentModel]
    wishes: Wishes
    encoder: ThreadPoolExecutor
    emit: Emit
    tell: Callable[[Doing], None]


class TaskRun:
    """One task. `to_share`: its stages, not over yet, whose calls others may share; none before it runs."""

    def __init__(self, task: RunTask, around: Surroundings) -> None:
        self.task = task
        self.is_over = False
        self.to_share: tuple[str, ...] = ()
        self.doing = Doing(Phase.RUNNING, time.monotonic(), task.task_id, task.stages[0])
        self._around = around
        self._steps_before = 0

    def run(self, seat: Seat) -> None:
        """Exactly one of TaskDone, TaskFailed, TaskCancelled and TaskPaused is emitted. Never raises.

        The own code of stages that are shared runs on the thread of the seat, their calls and all other
        stages on the device's.
        """
        ending = self._ending(seat)
        self.is_over, self.to_share = True, ()
        # closed before it is told: what is asked of the id from then on is meant for another task
        self._around.wishes.close(self.task.task_id)
        if ending is not None:
            self._around.emit(ending)

    def _ending(self, seat: Seat) -> TaskDone | TaskFailed | TaskCancelled | TaskPaused | None:
        """Run all stages; returns the terminal message, None if it comes with the picture's file."""
        task = self.task
        self._tell(task.stages[0], 0)
        try:
            return self._run_stages(seat)
        except StopAtBoundary as stopped:
            return TaskCancelled(task_id=task.task_id, step=stopped.steps_done)
        except PausedAtBoundary as paused:
            return TaskPaused(
                task_id=task.task_id,
                step=paused.steps_done,
                checkpoint=paused.checkpoint,
                exactness=_kept_by(seat),
            )
        except Exception as error:  # a family's own code may raise anything; the task answers for it
            return self._failed(self.doing.stage or task.stages[0], error)

    def _failed(self, stage: str, error: Exception) -> TaskFailed:
        """If memory ran out, the device has back what the stage held when this returns."""
        if out_of_memory(error) is None:
            return _failure(self.task, stage, error)
        words, asked = told(error, self._around.device), self.task.generation
        give_back(self._around.device, error)
        frames = f", {asked.num_frames} frames" if asked.num_frames > 1 else ""
        return TaskFailed(
            task_id=self.task.task_id,
            stage=stage,
            kind=FailureKind.OUT_OF_MEMORY,
            reason=f"out of memory in {stage} at {asked.width_px}x{asked.height_px}{frames}: {words}",
        )

    def _run_stages(self, seat: Seat) -> TaskDone | None:
        task, store, emit = self.task, self._around.store, self._around.emit
        resident = self._around.models.get(task.model)
        if resident is None:
            raise LoadRefused(f"model {task.model} is not loaded on this worker")
        unpack_from_s = time.monotonic()
        run, checkpoint = self._prepared(resident)
        self._steps_before = 0 if checkpoint is None else checkpoint.step
        graph = resident.graphs[task.generation.workflow]
        run.divert(seat.through)
        self.to_share = tuple(stage for stage in graph.names if stage in task.stages and run.shares(stage))
        overhead_s = time.monotonic() - unpack_from_s
        for stage in task.stages:
            self._check_stop(0)
            started_s = time.monotonic()
            self._tell(stage, 0)
            emit(StageStarted(task_id=task.task_id, stage=stage, started_at_s=started_s))
            if stage == graph.loop_stage:
                run.run(stage, functools.partial(self._boundary, seat, stage), checkpoint)
            elif stage in self.to_share:
                run.run(stage)
            else:
                seat.aside(functools.partial(run.run, stage))
            self.to_share = tuple(later for later in self.to_share if later != stage)
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
                emit(self._kept(done, run, seat) if stage == task.keep_after else done)
        last = task.stages[-1]
        if graph.is_last(last):
            emit(done)
            self._around.encoder.submit(
                self._finish, run.output(), resident.model.frames_per_second, _kept_by(seat)
            )
            return None
        data, tensors = pack(run.payload(last))
        output = store.put(data, tensors=tensors, task_id=task.task_id)
        packed_s = time.monotonic() - ended_s
        emit(msgspec.structs.replace(done, overhead_s=done.overhead_s + packed_s))
        return TaskDone(task_id=task.task_id, output=output, exactness=_kept_by(seat))

    def _prepared(self, resident: ResidentModel) -> tuple[StageRun, Checkpoint | None]:
        """The run with what it starts from. Raises `HandoffLost`, `HandoffRefused`."""
        task, store = self.task, self._around.store
        payload = None if task.handoff is None else unpack(store.get(task.handoff))
        image = task.generation.image
        picture = None if image is None else decode_picture(store.get(image))
        checkpoint = None
        if task.checkpoint is not None:
            checkpoint = Checkpoint.of(unpack(store.get(task.checkpoint)).to(self._around.device))
        return StageRun(resident, task.generation, payload, picture), checkpoint

    def _kept(self, done: StageDone, run: StageRun, seat: Seat) -> StageDone:
        """`done` with its stage's output in the store; without if the store is full, which is no failure."""
        packing_from_s = time.monotonic()
        data, tensors = pack(run.payload(done.stage))
        try:
            output = self._around.store.put(data, tensors=tensors, task_id=self.task.task_id)
        except StoreFull:
            output = None
        packed_s = time.monotonic() - packing_from_s
        return msgspec.structs.replace(
            done, output=output, exactness=_kept_by(seat), overhead_s=done.overhead_s + packed_s
        )

    def _finish(self, pixels: torch.Tensor, frames_per_second: int, exactness: Exactness) -> None:
        task, emit = self.task, self._around.emit
        try:
            file = encode_picture(
                pixels,
                task.generation.file_format,
                quality=task.generation.file_quality,
                frames_per_second=frames_per_second,
            )
            output = self._around.store.put(file, task_id=task.task_id)
        except Exception as error:  # this thread has nobody else to answer for the task
            emit(self._failed(task.stages[-1], error))
        else:
            emit(TaskDone(task_id=task.task_id, output=output, exactness=exactness))

    def _boundary(self, seat: Seat, stage: str, steps_done: int, steps: int, capture: Capture) -> None:
        task, emit, wishes = self.task, self._around.emit, self._around.wishes
        self._tell(stage, steps_done)
        is_new = steps_done > self._steps_before
        if is_new:
            emit(StepDone(task_id=task.task_id, step=steps_done, steps=steps, done_at_s=time.monotonic()))
        if steps_done < steps:
            self._check_stop(steps_done)
            # a continued loop makes a step before it is left again: pauses alone must not hold it up for ever
            if wishes.wants_pause(task.task_id) and (is_new or task.checkpoint is None):
                raise PausedAtBoundary(steps_done, self._save(capture()))
            if is_new and task.checkpoint_every and steps_done % task.checkpoint_every == 0:
                emit(self._saved(capture(), _kept_by(seat)))

    def _saved(self, checkpoint: Checkpoint, exactness: Exactness) -> CheckpointSaved:
        try:
            handle, reason = self._save(checkpoint), ""
        except StoreFull as full:
            handle, reason = None, str(full)
        return CheckpointSaved(
            task_id=self.task.task_id,
            step=checkpoint.step,
            checkpoint=handle,
            reason=reason,
            exactness=exactness,
        )

    def _save(self, checkpoint: Checkpoint) -> Handle:
        data, tensors = pack(checkpoint.payload())
        return self._around.store.put(data, tensors=tensors, task_id=self.task.task_id)

    def _check_stop(self, steps_done: int) -> None:
        if self._around.wishes.wants_stop(self.task.task_id):
            raise StopAtBoundary(steps_done)

    def _tell(self, stage: str, step: int) -> None:
        self.doing = Doing(Phase.RUNNING, time.monotonic(), self.task.task_id, stage, step)
        self._around.tell(self.doing)


def _kept_by(seat: Seat) -> Exactness:
    return Exactness.NUMERIC if seat.shared else Exactness.BITWISE


def _failure(task: RunTask, stage: str, error: Exception) -> TaskFailed:
    match error:
        case StoreFull():
            kind = FailureKind.STORE_FULL
        case HandoffLost():
            kind = FailureKind.HANDOFF_LOST
        case FieldRefused():
            kind = FailureKind.INPUT
        case _:
            kind = FailureKind.INTERNAL
    reason = f"{type(error).__name__}: {error}"
    return TaskFailed(task_id=task.task_id, stage=stage, kind=kind, reason=reason)
