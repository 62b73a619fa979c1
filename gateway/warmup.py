"""The first run of each stage of a model on each worker, before a request pays for it.

Stage k needs an output of stage k - 1: the first warm-up of k - 1, on any worker, leaves one that is kept for
as long as the model is served. Until then stage k waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.fleet import Fleet, Worker
from gateway.handoffs import Handoffs
from gateway.orders import Orders
from gateway.tasks import Task
from pipelines.graph import StageGraph
from planner.types import Shape, StageKey
from wire.generation import Generation
from wire.handle import Handle
from wire.to_gateway import FailureKind

HOLD_S = 1.0


class Listener(Protocol):
    """Who hears how a warm-up ended."""

    def warmed(self, worker: Worker, key: StageKey) -> None: ...

    def warm_up_failed(self, worker: Worker, key: StageKey, reason: str) -> None: ...


class WarmUps:
    """What is still to be run once, and the inputs for it. `generation`: what is run."""

    def __init__(
        self,
        graph: StageGraph,
        orders: Orders,
        fleet: Fleet,
        handoffs: Handoffs,
        listener: Listener,
        *,
        generation: Generation,
        shape: Shape,
        clock: Callable[[], float],
    ) -> None:
        self._graph = graph
        self._orders = orders
        self._fleet = fleet
        self._handoffs = handoffs
        self._listener = listener
        self._generation = generation
        self._shape = shape
        self._now_s = clock
        self._outputs: dict[str, Handle] = {}
        self._is_closed = False
        self.hold_until_s = 0.0

    def start(self, worker: Worker) -> bool:
        """Give a free `worker` the next stage that it has loaded and never run. False if there is none."""
        if self._is_closed or self._now_s() < self.hold_until_s:
            return False
        for index, stage in enumerate(self._graph.names):
            handoff = self._outputs.get(self._graph.names[index - 1]) if index else None
            if (self._graph.model, stage) in worker.unwarmed and (handoff or not index):
                self._orders.warm_up(worker, stage, handoff, self._generation, self._shape)
                return True
        return False

    def done(self, worker: Worker, task: Task, output: Handle) -> None:
        """A warm-up ended; its output is kept if it is the first of its stage."""
        stage = task.stages[-1]
        key = (self._graph.model, stage)
        if self._is_closed:
            self._handoffs.discard(output)
        elif not self._handoffs.own(output):
            self._listener.warm_up_failed(worker, key, "its output is the file of another task")
        else:
            if stage in self._outputs or self._graph.is_last(stage):
                self._handoffs.free(output)
            else:
                self._outputs[stage] = output
            self._listener.warmed(worker, key)

    def failed(self, worker: Worker, task: Task, kind: FailureKind, reason: str) -> None:
        """A warm-up failed: it is run again if what it needs was missing, else its model or worker is."""
        stage = task.stages[-1]
        if self._is_closed:
            return
        if kind is FailureKind.HANDOFF_LOST and stage != self._graph.names[0]:
            self._input_lost(stage)
        elif kind is FailureKind.STORE_FULL:
            self.hold_until_s = self._now_s() + HOLD_S
        else:
            self._listener.warm_up_failed(worker, (self._graph.model, stage), reason)

    def missing(self) -> tuple[str, ...]:
        """Stages that no live worker can run yet, in order. None left: the model is ready."""
        resident = self._fleet.resident()
        return tuple(stage for stage in self._graph.names if (self._graph.model, stage) not in resident)

    def close(self) -> None:
        """The model is to go: nothing is begun any more, and the inputs are freed."""
        self._is_closed = True
        self._handoffs.free(*self._outputs.values())
        self._outputs.clear()

    def _input_lost(self, stage: str) -> None:
        """The input of `stage` is gone: the stage before is to be run again, on one worker that has it."""
        before = self._graph.names[self._graph.names.index(stage) - 1]
        key = (self._graph.model, before)
        for worker in self._fleet.up():
            if key in worker.resident:
                worker.resident.discard(key)
                worker.unwarmed.add(key)
                break
        if (lost := self._outputs.pop(before, None)) is not None:
            self._handoffs.free(lost)
