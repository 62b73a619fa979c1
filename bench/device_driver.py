"""A worker's device loop in this process: commands in, its messages one after the other.

Imports torch, so thread counts have to be in the environment before this module is imported.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

from pipelines.catalogue import Model, to_entry
from wire.handoff import HandoffStore
from wire.to_gateway import LoadFailed, StagesLoaded, TaskFailed, ToGateway
from wire.to_worker import LoadStages, RunTask
from worker.components import Components
from worker.device import DeviceLoop
from worker.host_folder import HostFolder

_CAPACITY_BYTES = 1 << 30
_TIMEOUT_S = 300.0

M = TypeVar("M")


class DeviceFailed(Exception):
    """A load or a task failed; the text says why."""


class DeviceDriver:
    """Drives one device loop on a thread of its own. Leaving the context stops it."""

    def __init__(self, device: str, store: Path, host: HostFolder | None = None) -> None:
        """`store`: a folder that is made for the handoff files. `host`: of host copies of weights."""
        self.device = device
        self.store = HandoffStore(store, node="bench", capacity_bytes=_CAPACITY_BYTES)
        self._said: queue.Queue[ToGateway] = queue.Queue()
        components = Components(torch.device(device), host)
        self.loop = DeviceLoop(torch.device(device), self.store, self._said.put, components)
        self._thread = threading.Thread(target=self.loop.run)

    def __enter__(self) -> DeviceDriver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.stop()
        self._thread.join()

    def hear(self) -> ToGateway:
        """The next message. Raises `DeviceFailed` for a failure, and after five minutes of silence."""
        try:
            message = self._said.get(timeout=_TIMEOUT_S)
        except queue.Empty:
            raise DeviceFailed(f"nothing was heard for {_TIMEOUT_S:.0f} s") from None
        if isinstance(message, LoadFailed | TaskFailed):
            raise DeviceFailed(message.reason)
        return message

    def until(self, *kinds: type[M]) -> M:
        """The next message of one of `kinds`."""
        while True:
            message: Any = self.hear()
            if isinstance(message, kinds):
                return message

    def load(self, name: str, model: Model, stages: tuple[str, ...]) -> None:
        """Make stages resident."""
        self.loop.submit(LoadStages(model=name, entry=to_entry(model), stages=stages))
        self.until(StagesLoaded)

    def submit_together(self, name: str, model: Model, tasks: list[RunTask]) -> None:
        """Queue `tasks` behind a load that costs nothing, so that all are there when the first begins."""
        self.loop.submit(LoadStages(model=name, entry=to_entry(model), stages=()))
        for task in tasks:
            self.loop.submit(task)
