"""What was asked of tasks while they run or wait: any thread asks, the task looks at its step boundaries."""

from __future__ import annotations

import threading


class Wishes:
    """Cancels and pauses by task, and the stop of all. Ids of tasks that are not open are ignored."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._cancelled: set[str] = set()
        self._pausing: set[str] = set()
        self._stopping = threading.Event()

    def open(self, task_id: str) -> None:
        """From now on something may be asked of the task."""
        self._open.add(task_id)

    def close(self, task_id: str) -> None:
        """The task has ended; what was asked of it is forgotten."""
        for ids in (self._open, self._cancelled, self._pausing):
            ids.discard(task_id)

    def cancel(self, task_id: str) -> None:
        if task_id in self._open:
            self._cancelled.add(task_id)

    def pause(self, task_id: str) -> None:
        if task_id in self._open:
            self._pausing.add(task_id)

    def stop(self) -> None:
        self._stopping.set()

    def wants_stop(self, task_id: str) -> bool:
        """Whether the task shall leave for good."""
        return task_id in self._cancelled or self._stopping.is_set()

    def wants_pause(self, task_id: str) -> bool:
        """Whether the task shall leave with a checkpoint."""
        return task_id in self._pausing
