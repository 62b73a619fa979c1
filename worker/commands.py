"""The commands of a device loop, in the order in which they came."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable

from wire.to_worker import Describe, EvictStages, ForgetModel, LoadStages, MeasureProfile, RunTask, UseKernels

Command = Describe | MeasureProfile | UseKernels | LoadStages | EvictStages | ForgetModel | RunTask


class CommandQueue:
    """A queue whose first command can be taken on a condition. Any thread puts and closes, one takes.

    Unbounded here: the gateway bounds what it has outstanding at a worker.
    """

    def __init__(self) -> None:
        self._commands: collections.deque[Command] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, command: Command) -> None:
        with self._changed:
            self._commands.append(command)
            self._changed.notify()

    def close(self) -> None:
        """Nothing is taken any more; what is queued is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> Command | None:
        """The first command, as soon as there is one; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._commands)
            return None if self._closed else self._commands.popleft()

    def take_task(self, wanted: Callable[[RunTask], bool]) -> RunTask | None:
        """The first command if it is a task and `wanted`, without waiting."""
        with self._changed:
            first = self._commands[0] if self._commands and not self._closed else None
            if not isinstance(first, RunTask) or not wanted(first):
                return None
            self._commands.popleft()
            return first
