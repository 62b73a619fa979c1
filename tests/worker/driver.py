"""A device loop driven from a test: commands in, and what it said."""

from __future__ import annotations

import queue
import threading
from typing import Any, TypeVar

import msgspec
import torch

from pipelines.catalogue import Model, to_entry
from wire.generation import Generation
from wire.handoff import HandoffStore
from wire.to_gateway import StagesLoaded, StepDone, TaskCancelled, TaskDone, TaskFailed, TaskPaused, ToGateway
from wire.to_worker import LoadStages, RunTask
from worker.components import Components
from worker.device import DeviceLoop

STAGES = ("text_encoder", "denoise", "decode")
Terminal = TaskDone | TaskFailed | TaskCancelled | TaskPaused
M = TypeVar("M")


class Driver:
    """A device loop on a thread, and what it said."""

    def __init__(self, store: HandoffStore, components: Components | None = None) -> None:
        self.said: queue.Queue[ToGateway] = queue.Queue()
        self.history: list[ToGateway] = []
        self.store = store
        self.loop = DeviceLoop(torch.device("cpu"), store, self.said.put, components)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def until(self, *kinds: type[M]) -> M:
        """The next message of one of `kinds`; everything before it goes to `history`."""
        while True:
            message: Any = self.said.get(timeout=60)
            self.history.append(message)
            if isinstance(message, kinds):
                return message

    def load(self, model: Model, *stages: str, name: str = "tiny") -> None:
        """Make stages resident and wait for it."""
        self.loop.submit(load_stages(model, *stages, name=name))
        self.until(StagesLoaded)

    def ends(self, *task_ids: str) -> dict[str, Terminal]:
        """The terminal message of each of these tasks, once all are there. None may end twice."""
        ended: dict[str, Terminal] = {}
        while ended.keys() < set(task_ids):
            message: Any = self.until(TaskDone, TaskFailed, TaskCancelled, TaskPaused)
            assert message.task_id not in ended
            ended[message.task_id] = message
        return ended

    def ends_or_steps(self) -> dict[str, Terminal]:
        """The next terminal message, if no step was done before."""
        message: Any = self.until(StepDone, TaskDone, TaskFailed, TaskCancelled, TaskPaused)
        return {} if isinstance(message, StepDone) else {message.task_id: message}

    def close(self) -> None:
        self.loop.stop()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()


def load_stages(model: Model, *stages: str, name: str = "tiny") -> LoadStages:
    return LoadStages(model=name, entry=to_entry(model), stages=stages)


def make_task(task_id: str, *stages: str, steps: int = 3, **changes: Any) -> RunTask:
    """A task of the tiny SD3; `changes` are fields of the task."""
    generation = Generation(
        prompt="a dog", width_px=32, height_px=32, num_inference_steps=steps, guidance_scale=4.0, seed=3
    )
    task = RunTask(task_id=task_id, job_id="job", model="tiny", stages=stages, generation=generation)
    return msgspec.structs.replace(task, **changes)
