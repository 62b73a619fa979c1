"""The folder of host copies of one node: files in shared memory that every worker maps. No torch here.

A file is written once, whole or not at all, and never changed. Whoever maps it holds a shared lock on it,
which the kernel takes back from a process that dies, so a file that can be locked alone is mapped by nobody.
The sum of bytes is bounded over all processes: before a write the files that nobody maps leave, the least
recently used first.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from worker.errors import HostFolderFull

_LOCK = ".lock"
_DRAFT = ".draft-"
_LOCKS = "locks"
_PLACES = "places"
_SOURCES = "sources"


class HeldFile:
    """One file that stays as long as this is open. `n_bytes`: its size."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.n_bytes = os.fstat(file.fileno()).st_size
        self._file = file

    def close(self) -> None:
        """Let it leave when room is needed. What is mapped stays valid."""
        self._file.close()


class HostFolder:
    """Files by name in `folder`, of `capacity_bytes` in sum. Safe to use from several processes."""

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        """Opens `folder`, which is made with mode 0700 if it is missing.

        `sources` in it is for copies of small files, which are not counted.
        """
        self.sources = folder / _SOURCES
        for path in (folder, folder / _LOCKS, folder / _PLACES, self.sources):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._capacity_bytes = capacity_bytes

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Inside, no other is inside with the same name: the second to come finds what the first wrote."""
        with open(self._folder / _LOCKS / name, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open(self, name: str) -> HeldFile | None:
        """The file, which counts as used now; None if it is not there."""
        path = self._folder / name
        try:
            file = open(path, "rb")  # noqa: SIM115 - held by what is returned
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink == 0:
            # it left between the opening and the lock
            file.close()
            return None
        os.utime(file.fileno())
        return HeldFile(path, file)

    def write(self, name: str, n_bytes: int, fill: Callable[[BinaryIO], None]) -> HeldFile:
        """A new file of at most `n_bytes`, which `fill` writes; one of that name is replaced.

        Raises `HostFolderFull` if it does not fit, and then nothing is left behind, and what `fill` raises.
        """
        draft = self._folder / f"{_DRAFT}{uuid.uuid4().hex}"
        with contextlib.ExitStack() as undo:
            with self._locked():
                self._make_room(n_bytes)
                file = undo.enter_context(open(draft, "xb"))
                undo.callback(draft.unlink, missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    # taken before anything is written: a full tmpfs kills who maps what it cannot hold
                    os.posix_fallocate(file.fileno(), 0, n_bytes)
                except OSError as error:
                    raise HostFolderFull(f"{n_bytes} bytes: {error.strerror}") from error
            fill(file)
            file.flush()
            draft.rename(self._folder / name)
        held = self.open(name)
        if held is None:
            raise HostFolderFull(f"{n_bytes} bytes were taken back at once by another worker's need of room")
        return held

    def remove(self, name: str) -> bool:
        """Remove the file unless someone has it open. Returns whether it is gone."""
        with self._locked():
            return _removed(self._folder / name)

    def remember(self, place: str, name: str) -> None:
        """From now on `place` stands for the file `name`."""
        path = self._folder / _PLACES / _digest(place)
        draft = path.with_name(f"{_DRAFT}{uuid.uuid4().hex}")
        draft.write_text(name)
        draft.rename(path)

    def remembered(self, place: str) -> str | None:
        """The name that `place` was last said to stand for."""
        try:
            return (self._folder / _PLACES / _digest(place)).read_text()
        except FileNotFoundError:
            return None

    def used_bytes(self) -> int:
        """Bytes of all files now in the folder."""
        return sum(n_bytes for _, _, n_bytes in self._files())

    def _files(self) -> list[tuple[int, Path, int]]:
        """When each was last used, its path and its bytes."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                # a file may leave between the listing and the stat
                with contextlib.suppress(FileNotFoundError):
                    if entry.name != _LOCK and entry.is_file():
                        status = entry.stat()
                        found.append((status.st_mtime_ns, Path(entry.path), status.st_size))
        return found

    def _make_room(self, n_bytes: int) -> None:
        if n_bytes > self._capacity_bytes:
            raise HostFolderFull(f"{n_bytes} bytes are more than the bound of {self._capacity_bytes}")
        files = sorted(self._files())
        for _, path, _ in files:
            # nobody writes it any more: its writer died
            if path.name.startswith(_DRAFT):
                _removed(path)
        used_bytes = self.used_bytes()
        for _, path, size in files:
            if used_bytes + n_bytes <= self._capacity_bytes:
                return
            if not path.name.startswith(_DRAFT) and _removed(path):
                used_bytes -= size
        if used_bytes + n_bytes > self._capacity_bytes:
            raise HostFolderFull(
                f"{used_bytes} of {self._capacity_bytes} bytes are in use, {n_bytes} more do not fit"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._folder / _LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _removed(path: Path) -> bool:
    """Remove `path` unless someone has it locked. Returns whether it is gone."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
