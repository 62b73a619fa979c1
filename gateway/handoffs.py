"""The gateway's side of the handoff store: which files somebody owns, reading the last one, freeing the rest.

Freeing is one unlink on tmpfs, some ten microseconds, and is done where it is decided; reads go to a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from wire.errors import HandoffLost
from wire.handle import Handle
from wire.handoff import HandoffStore

log = logging.getLogger(__name__)


class Handoffs:
    """Files by their owners: one that is owned is freed by its last owner, whatever a late message says."""

    def __init__(self, store: HandoffStore) -> None:
        self._store = store
        self._owned: dict[str, Handle] = {}
        self._n_owners: Counter[str] = Counter()
        self.n_bytes = 0
        self._taken: Counter[str] = Counter()
        self._freed: Counter[str] = Counter()

    def own(self, handle: Handle) -> bool:
        """Become the first owner. False if it has one already: a worker named another task's output."""
        if handle.name in self._owned:
            return False
        self._owned[handle.name] = handle
        self._n_owners[handle.name] = 1
        self.n_bytes += handle.n_bytes
        self._taken.update(files=1, n_bytes=handle.n_bytes)
        return True

    def share(self, handle: Handle) -> None:
        """Become a further owner of an owned file."""
        assert handle.name in self._owned
        self._n_owners[handle.name] += 1

    def free(self, *handles: Handle) -> None:
        """An owner of each needs it no more; a file without owners goes."""
        for handle in handles:
            self._n_owners[handle.name] -= 1
            if self._n_owners[handle.name] <= 0:
                self._remove(handle)

    def discard(self, handle: Handle) -> None:
        """Free the output of a task that nobody waits for, unless somebody owns that file."""
        if handle.name not in self._owned:
            self._unlink(handle)

    def free_task(self, task_id: str) -> None:
        """Free what a lost worker wrote for this task, told of or not, but for what somebody owns.

        To be called when nothing writes for it any more: the worker's process has ended.
        """
        try:
            if n_files := self._store.free_task(task_id, keep=self._owned.keys()):
                log.info("%d files of the lost task %s were freed", n_files, task_id)
        except OSError as error:
            log.warning("the files of the lost task %s were not freed: %s", task_id, error)

    async def read(self, handle: Handle) -> bytes:
        """Raises `HandoffLost`. Cancellation leaves the file."""
        return await asyncio.to_thread(self._store.get, handle)

    async def used_bytes(self) -> int:
        """Bytes of all files of the store, owned or not."""
        return await asyncio.to_thread(self._store.used_bytes)

    def free_all(self) -> None:
        """Whoever owns them."""
        for handle in tuple(self._owned.values()):
            self._remove(handle)

    def statistics(self) -> dict[str, int]:
        """Files that have an owner, and their bytes; that ever had one; that were freed again; the bound."""
        return {
            "files": len(self._owned),
            "n_bytes": self.n_bytes,
            "taken": self._taken["files"],
            "taken_bytes": self._taken["n_bytes"],
            "freed": self._freed["files"],
            "freed_bytes": self._freed["n_bytes"],
            "capacity_bytes": self._store.capacity_bytes,
        }

    def _remove(self, handle: Handle) -> None:
        del self._n_owners[handle.name]
        if (owned := self._owned.pop(handle.name, None)) is not None:
            self.n_bytes -= owned.n_bytes
            self._freed.update(files=1, n_bytes=owned.n_bytes)
        self._unlink(handle)

    def _unlink(self, handle: Handle) -> None:
        try:
            self._store.free(handle)
        except (HandoffLost, OSError) as error:
            log.warning("handoff %r was not freed: %s", handle.name, error)
