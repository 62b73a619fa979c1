"""The device loop: one thread that loads, evicts and runs, in the order in which it was told.

It emits messages through a callback and never touches a socket. Tasks whose loops go on in one batch share
its network calls; their own code runs on threads of their own, one at a time (see `worker.batch`). Picture
files are encoded in a thread beside it, so that the device can begin the next task; that task's terminal
message comes from there.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import torch

from kernels.switch import Choice
from pipelines.catalogue import from_entry
from pipelines.derive import derive
from pipelines.errors import PipelineError
from wire.generation import Exactness
from wire.handoff import HandoffStore
from wire.to_gateway import (
    Described,
    DescribeFailed,
    LoadFailed,
    ModelForgotten,
    Phase,
    ProfileFailed,
    ProfileMeasured,
    ProfileProgress,
    StagesEvicted,
    StagesLoaded,
)
from wire.to_worker import Describe, EvictStages, ForgetModel, LoadStages, MeasureProfile, RunTask, UseKernels
from worker.batch import Batch
from worker.commands import Command, CommandQueue
from worker.components import Components
from worker.errors import StopAtBoundary, WorkerError
from worker.memory import give_back, out_of_memory, told
from worker.network_tap import can_share
from worker.profiler import Profiler
from worker.resident import ResidentModel, computed_in
from worker.stage_bytes import stage_bytes
from worker.task_run import Doing, Emit, Surroundings, TaskRun
from worker.wishes import Wishes


class DeviceLoop:
    """Commands in, messages out. `run` blocks until `stop`; everything else may be called from any thread."""

    def __init__(
        self, device: torch.device, store: HandoffStore, emit: Emit, components: Components | None = None
    ) -> None:
        """`components`: what holds the weights; without host copies and bounds where None."""
        self._device = device
        self._components = Components(device) if components is None else components
        self._emit = emit
        self._models: dict[str, ResidentModel] = {}
        self._commands = CommandQueue()
        self._wishes = Wishes()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._around = Surroundings(
            device=device,
            store=store,
            models=self._models,
            wishes=self._wishes,
            encoder=self._encoder,
            emit=emit,
            tell=self._tell,
        )
        self.doing = Doing(Phase.IDLE, time.monotonic())

    def submit(self, command: Command) -> None:
        """Queue one command."""
        if isinstance(command, RunTask):
            self._wishes.open(command.task_id)
        self._commands.put(command)

    def cancel(self, task_id: str) -> None:
        """Stop that task at its next step boundary, or before it begins. Other ids are ignored."""
        self._wishes.cancel(task_id)

    def pause(self, task_id: str) -> None:
        """Leave that task's loop at its next step boundary with a checkpoint. Other ids are ignored."""
        self._wishes.pause(task_id)

    def stop(self) -> None:
        """Leave after the running tasks reached a boundary; queued commands are dropped."""
        self._wishes.stop()
        self._commands.close()

    def run(self) -> None:
        """The loop itself, on the calling thread."""
        while (command := self._commands.take()) is not None:
            match command:
                case Describe():
                    self._describe(command)
                case MeasureProfile():
                    self._measure(command)
                case UseKernels():
                    self._use(command)
                case LoadStages():
                    self._load(command)
                case EvictStages():
                    self._evict(command)
                case ForgetModel():
                    self._forget(command.model)
                case RunTask():
                    self._run_task(command)
            self.doing = Doing(Phase.IDLE, time.monotonic())
        self.doing = Doing(Phase.STOPPING, time.monotonic())
        self._encoder.shutdown(wait=True)

    def _tell(self, doing: Doing) -> None:
        self.doing = doing

    def _describe(self, command: Describe) -> None:
        self.doing = Doing(Phase.LOADING, time.monotonic())
        try:
            model = self._components.opened(from_entry(command.entry))
            graphs = derive(command.model, model)
            weight_bytes = stage_bytes(command.model, model, graphs, computed_in(model, self._device))
        except (PipelineError, WorkerError) as error:
            self._emit(DescribeFailed(model=command.model, reason=str(error)))
        else:
            described = msgspec.to_builtins(graphs)
            self._emit(Described(model=command.model, graphs=described, weight_bytes=weight_bytes))

    def _measure(self, command: MeasureProfile) -> None:
        def say(line: str) -> None:
            self.doing = Doing(Phase.MEASURING, time.monotonic())
            self._emit(ProfileProgress(model=command.model, text=line))

        self.doing = Doing(Phase.MEASURING, time.monotonic())
        try:
            measured = Profiler(
                command.model,
                from_entry(command.entry),
                self._device,
                self._components,
                self._around.store,
                say=say,
                stopping=lambda: self._wishes.wants_stop(""),
            ).measure(command.generations, command.batches, command.bound_s)
        except StopAtBoundary:
            self._emit(ProfileFailed(model=command.model, reason="the worker is stopping"))
        except Exception as error:  # a family's own code may raise anything; the gateway goes on without
            words = str(error) if isinstance(error, PipelineError | WorkerError) else repr(error)
            give_back(self._device, error)
            self._emit(ProfileFailed(model=command.model, reason=words))
        else:
            self._emit(ProfileMeasured(model=command.model, profile=msgspec.to_builtins(measured)))

    def _use(self, command: UseKernels) -> None:
        self._components.switch.use(
            {key: Choice(path, settings) for key, (path, settings) in command.chosen.items()}
        )

    def _load(self, command: LoadStages) -> None:
        started_s = time.monotonic()
        self.doing = Doing(Phase.LOADING, started_s)
        try:
            resident = self._models.get(command.model)
            if resident is None:
                model = from_entry(command.entry)
                resident = ResidentModel(command.model, model, self._device, self._components)
            resident.load(command.stages)
        except Exception as error:
            short = out_of_memory(error)
            if short is None and not isinstance(error, PipelineError | WorkerError):
                raise
            known = isinstance(error, PipelineError | WorkerError)
            reason = str(error) if known else f"out of memory: {told(error, self._device)}"
            # what was loaded before the part that failed is held by the frames
            resident = None
            give_back(self._device, error)
            self._emit(LoadFailed(model=command.model, stages=command.stages, reason=reason))
            return
        self._models[command.model] = resident
        self._emit(
            StagesLoaded(
                model=command.model,
                stages=command.stages,
                load_s=time.monotonic() - started_s,
                resident_bytes=self._components.resident_bytes,
                host_bytes=self._components.host_bytes,
                origins=resident.origins,
                notes=resident.notes,
            )
        )

    def _evict(self, command: EvictStages) -> None:
        if command.model in self._models:
            self._models[command.model].evict(command.stages)
            give_back(self._device)
        self._emit(
            StagesEvicted(
                model=command.model,
                stages=command.stages,
                resident_bytes=self._components.resident_bytes,
                host_bytes=self._components.host_bytes,
            )
        )

    def _forget(self, model: str) -> None:
        if (resident := self._models.pop(model, None)) is not None:
            source, part_names = resident.source, resident.part_names
            del resident
            give_back(self._device)
            others = self._models.values()
            self._components.forget(part_names.difference(*(other.part_names for other in others)))
            if all(other.source != source for other in others):
                self._components.sources.forget(source)
        self._emit(
            ModelForgotten(
                model=model,
                resident_bytes=self._components.resident_bytes,
                host_bytes=self._components.host_bytes,
            )
        )

    def _run_task(self, first: RunTask) -> None:
        """Run `first`, and with it the tasks behind it that join, while any of them is at it.

        A task that joins is encoded when it is taken, with others that are taken then, and one whose loop is
        over has its later stages run at once: the others wait for as long as an encode or a decode takes.
        """
        inside = [TaskRun(first, self._around)]

        def admit() -> None:
            while (task := self._commands.take_task(functools.partial(self._can_join, inside))) is not None:
                inside.append(TaskRun(task, self._around))
                batch.enter(inside[-1].run)
            inside[:] = [run for run in inside if not run.is_over]
            # a batch is at what its oldest task is at
            self.doing = replace(inside[0].doing, since_s=time.monotonic())

        batch = Batch(self._device, before_round=admit)
        batch.run(inside[0].run)

    def _can_join(self, inside: list[TaskRun], task: RunTask) -> bool:
        """Whether `task` asks for and may have a place beside the one that it joins."""
        other = next((run for run in inside if run.task.task_id == task.joins), None)
        if other is None or task.model != other.task.model or not {*other.to_share} & {*task.stages}:
            return False
        mine, theirs = task.generation, other.task.generation
        return (
            Exactness.BITWISE not in (mine.exactness, theirs.exactness)
            and mine.adapter == theirs.adapter
            and can_share(self._models[task.model].pipe)
        )
