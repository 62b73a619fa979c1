"""The handoff store of one node: files in a private tmpfs folder, as plain bytes.

A file outlives the process that wrote it: recovery after a crash, pause and migration rest on that. Writers
are workers, the gateway frees. The bound in bytes holds over all processes of the node, because a write
measures the folder and writes under one file lock; that costs tens of microseconds with some hundred files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from wire.errors import HandoffLost, StoreFull
from wire.handle import Handle, TensorInfo

_LOCK = ".lock"
_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9]+)?")


class HandoffStore:
    """Files of one folder, bounded by `capacity_bytes` in sum. Safe to use from several processes."""

    def __init__(self, folder: Path, *, node: str, capacity_bytes: int) -> None:
        """Opens `folder`, which is made with mode 0700 if it is missing."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._node = node
        self.capacity_bytes = capacity_bytes

    def put(self, data: bytes, *, tensors: tuple[TensorInfo, ...] = (), task_id: str | None = None) -> Handle:
        """Write `data` whole or not at all. Raises `StoreFull`, and then nothing is left behind.

        `task_id`: the task that it is written for, letters, digits and dashes. It becomes part of the name:
        what a worker wrote and never told of can be found when the worker is gone.
        """
        name = uuid.uuid4().hex if task_id is None else f"{task_id}.{uuid.uuid4().hex}"
        assert _NAME.fullmatch(name)
        with self._locked():
            used_bytes = self.used_bytes()
            if used_bytes + len(data) > self.capacity_bytes:
                raise StoreFull(
                    f"the handoff store holds {used_bytes} of {self.capacity_bytes} bytes,"
                    f" {len(data)} more do not fit"
                )
            draft = self._folder / f".{name}"
            try:
                draft.write_bytes(data)
                draft.rename(self._folder / name)
            except OSError as error:
                draft.unlink(missing_ok=True)
                raise StoreFull(f"handoff store cannot be written: {error.strerror}") from error
        return Handle(node=self._node, name=name, n_bytes=len(data), tensors=tensors)

    def get(self, handle: Handle) -> bytes:
        """The bytes behind `handle`. Raises `HandoffLost` if they are gone or were cut."""
        try:
            data = self._path(handle).read_bytes()
        except FileNotFoundError:
            raise HandoffLost(f"handoff {handle.name} is not in the store") from None
        if len(data) != handle.n_bytes:
            raise HandoffLost(f"handoff {handle.name} has {len(data)} bytes, expected {handle.n_bytes}")
        return data

    def free(self, handle: Handle) -> None:
        """Remove the file. Freeing twice is harmless."""
        self._path(handle).unlink(missing_ok=True)

    def free_task(self, task_id: str, keep: Container[str]) -> int:
        """Remove what was written for a task of a worker that is gone, half-written files too.

        Files whose names are in `keep` stay. Returns how many were removed.
        """
        removed = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.removeprefix(".").startswith(f"{task_id}.") and entry.name not in keep:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)
                    removed += 1
        return removed

    def sweep(self, keep: Iterable[Handle] = ()) -> int:
        """Remove every file that `keep` does not name; returns how many there were. For a store at rest."""
        kept = {handle.name for handle in keep} | {_LOCK}
        removed = 0
        with self._locked():
            for entry in os.scandir(self._folder):
                if entry.name not in kept:
                    os.unlink(entry.path)
                    removed += 1
        return removed

    def used_bytes(self) -> int:
        """Bytes of all files now in the store."""
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                # a file may be freed between the listing and the stat
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_size
        return total

    def _path(self, handle: Handle) -> Path:
        if handle.node != self._node:
            raise HandoffLost(f"handoff {handle.name} is on node {handle.node}, this is {self._node}")
        if not _NAME.fullmatch(handle.name):
            raise HandoffLost(f"handoff name {handle.name!r} is not one of ours")
        return self._folder / handle.name

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / _LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
