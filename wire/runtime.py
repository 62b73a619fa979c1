"""The runtime folder of one gateway: its socket, its handoff store and the lock that says it lives.

It is private (0700) and on tmpfs where that is large enough. A folder whose lock nobody holds belonged to a
gateway that was killed; the next one to start removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from wire.errors import AlreadyRunning, NotPrivate

_LOCK = "lock"
_PREFIX = "triptych-"
SHARED_MEMORY = Path("/dev/shm")


def node_name() -> str:
    """What this machine is called in handles."""
    return socket.gethostname()


def runtime_root(capacity_bytes: int) -> Path:
    """Shared memory if it has room for `capacity_bytes`, else the folder for temporary files."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(SHARED_MEMORY).free >= capacity_bytes and os.access(SHARED_MEMORY, os.W_OK):
            return SHARED_MEMORY
    return Path(tempfile.gettempdir())


def spare_bytes(root: Path, taken_bytes: int) -> int:
    """Half of the memory that is free in `root` beside `taken_bytes`; 0 if it is no shared memory."""
    if root != SHARED_MEMORY:
        return 0
    return max(0, shutil.disk_usage(root).free - taken_bytes) // 2


class RuntimeFolder:
    """Owns one folder from `with` to its end; removes dead siblings first and itself last.

    Raises `AlreadyRunning` if a live process owns the same name, `NotPrivate` if it is not ours alone.
    """

    def __init__(self, name: str, *, root: Path) -> None:
        self._root = root
        self.path = root / f"{_PREFIX}{os.getuid()}-{name}"
        self._lock: BinaryIO | None = None

    @property
    def endpoint(self) -> str:
        """Where the gateway's ROUTER binds."""
        return f"ipc://{self.path}/gateway.sock"

    @property
    def handoff(self) -> Path:
        """The folder of the handoff store."""
        return self.path / "handoff"

    @property
    def weights(self) -> Path:
        """The folder of the host copies of weights, made by the first worker."""
        return self.path / "weights"

    def __enter__(self) -> RuntimeFolder:
        for sibling in self._root.glob(f"{_PREFIX}{os.getuid()}-*"):
            if sibling == self.path or not _is_private(sibling) or not (sibling / _LOCK).exists():
                # one without a lock is about to get it
                continue
            if (lock := try_lock(sibling)) is not None:
                with lock:
                    shutil.rmtree(sibling, ignore_errors=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(self.path):
            raise NotPrivate(f"{self.path} was made by someone else, or is open to others")
        self._lock = try_lock(self.path)
        if self._lock is None:
            raise AlreadyRunning(f"another gateway owns {self.path}")
        for leftover in self.path.iterdir():
            if leftover.name != _LOCK:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self._lock.close()
            self._lock = None


def _is_private(folder: Path) -> bool:
    """The root is open to every user of the machine, who may have made anything there under our name."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def try_lock(folder: Path) -> BinaryIO | None:
    """The held lock of `folder`, or None if someone else holds it or the folder is gone."""
    try:
        lock = open(folder / _LOCK, "ab")  # noqa: SIM115 (held as long as its owner lives)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
