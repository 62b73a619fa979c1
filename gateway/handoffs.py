"""The gateway's side of the handoff store: which files somebody owns, reading the last one, freeing the rest.

Freeing is one unlink on tmpfs, some ten microseconds, and is done where it is decided; reads go to a thread.
"""

from __future__ import annotations

import asyncio
import logging

from wire.errors import HandoffLost
from wire.handle import Handle
from wire.handoff import HandoffStore

log = logging.getLogger(__name__)


class Handoffs:
    """Files by owner's right: one that is owned is freed by its owner only, whatever a late message says."""

    def __init__(self, store: HandoffStore) -> None:
        self._store = store
        self._owned: dict[str, Handle] = {}

    def own(self, handle: Handle) -> bool:
        """False if it has an owner already: a worker named another task's output."""
        if handle.name in self._owned:
            return False
        self._owned[handle.name] = handle
        return True

    def free(self, handle: Handle | None) -> None:
        """The owner needs it no more."""
        if handle is not None:
            self._owned.pop(handle.name, None)
            self._unlink(handle)

    def discard(self, handle: Handle) -> None:
        """Free the output of a task that nobody waits for, unless somebody owns that file."""
        if handle.name not in self._owned:
            self._unlink(handle)

    async def read(self, handle: Handle) -> bytes:
        """Raises `HandoffLost`. Cancellation leaves the file."""
        return await asyncio.to_thread(self._store.get, handle)

    async def used_bytes(self) -> int:
        """Bytes of all files of the store, owned or not."""
        return await asyncio.to_thread(self._store.used_bytes)

    def free_all(self) -> None:
        for handle in tuple(self._owned.values()):
            self.free(handle)

    def statistics(self) -> dict[str, int]:
        """Files that have an owner, and their bytes."""
        return {
            "files": len(self._owned),
            "n_bytes": sum(handle.n_bytes for handle in self._owned.values()),
        }

    def _unlink(self, handle: Handle) -> None:
        try:
            self._store.free(handle)
        except (HandoffLost, OSError) as error:
            log.warning("handoff %r was not freed: %s", handle.name, error)
