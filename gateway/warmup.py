"""The first run of each stage on each worker, before a request pays for it. No I/O.

Stage k needs an output of stage k - 1: the first warm-up of k - 1, on any worker, leaves one that is kept for
the life of the model. Until then stage k waits.
"""

from __future__ import annotations

from gateway.fleet import Fleet, Worker
from pipelines.graph import StageGraph
from planner.types import StageKey
from wire.handle import Handle


class WarmUps:
    """What is still to be run once, and the inputs for it."""

    def __init__(self, graph: StageGraph) -> None:
        self._graph = graph
        self._outputs: dict[str, Handle] = {}
        self.hold_until_s = 0.0

    def next_for(self, worker: Worker, now_s: float) -> tuple[str, Handle | None] | None:
        """The stage that `worker` can warm up now, with its input; None if there is none."""
        if now_s < self.hold_until_s:
            return None
        for index, stage in enumerate(self._graph.names):
            if (self._graph.model, stage) in worker.unwarmed:
                if index == 0:
                    return stage, None
                if handoff := self._outputs.get(self._graph.names[index - 1]):
                    return stage, handoff
        return None

    def ended(self, stage: str, output: Handle) -> bool:
        """Whether `output` of `stage` is kept as an input; if not, the caller frees it."""
        if stage in self._outputs or self._graph.is_last(stage):
            return False
        self._outputs[stage] = output
        return True

    def input_lost(self, stage: str, fleet: Fleet) -> Handle | None:
        """The input of `stage` is gone: the stage before is to be run again, on one worker that has it.

        Returns the handle that is not to be used again, if there was one.
        """
        before = self._graph.names[self._graph.names.index(stage) - 1]
        key = (self._graph.model, before)
        for worker in fleet.up():
            if key in worker.resident:
                worker.resident.discard(key)
                worker.unwarmed.add(key)
                break
        return self._outputs.pop(before, None)

    def missing(self, fleet: Fleet) -> tuple[str, ...]:
        """Stages that no live worker can run yet, in order. None left: the model is ready."""
        resident: set[StageKey] = fleet.resident()
        return tuple(stage for stage in self._graph.names if (self._graph.model, stage) not in resident)
