"""Pictures that clients fetch by URL: a private bounded folder, each file until it expires.

A URL that was given is good until its expiry. A full folder therefore refuses new files instead of dropping
old ones, and room is taken before a picture is begun, not when it is there. Whoever knows a name may read the
file, so names are random, and none comes from a client. On disk a name begins with the expiry: a folder that
outlives its gateway is honoured by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec
from aiohttp import web

from gateway.errors import ConfigRefused, FilesFull, FileUnknown, InvalidRequest, StartFailed
from wire.generation import FileFormat, Generation
from wire.runtime import try_lock

CONTENT_TYPE = {FileFormat.PNG: "image/png", FileFormat.JPEG: "image/jpeg", FileFormat.WEBP: "image/webp"}

_SUFFIX = {FileFormat.PNG: "png", FileFormat.JPEG: "jpg", FileFormat.WEBP: "webp"}
_FORMAT = {suffix: file_format for file_format, suffix in _SUFFIX.items()}
_NAME_BYTES = 20
_STORED = re.compile(rf"([0-9]{{1,12}})-([0-9a-f]{{{2 * _NAME_BYTES}}}\.({'|'.join(_FORMAT)}))")
_UNFINISHED = ".unfinished-"

_MAX_BYTES_PER_PX = 4
_MAX_BYTES_BESIDE_PX = 64 * 1024

_KEPT_LONGER_S = 5.0
"""Between expiry and removal, so that who was let in just before it still finds the file."""
_SWEEP_EVERY_S = 30.0


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """`expires_at`: seconds since 1970."""

    name: str
    path: Path
    n_bytes: int
    expires_at: int

    @property
    def content_type(self) -> str:
        return CONTENT_TYPE[_FORMAT[self.name.partition(".")[2]]]


class FileStore:
    """Open from `with` to its end, which leaves the files. `put` is for threads, the rest for the event loop.

    `public_url` is what URLs begin with, None for what the client called this server.
    """

    def __init__(
        self,
        folder: Path,
        *,
        capacity_bytes: int,
        ttl_s: float,
        public_url: str | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.public_url = public_url
        self._folder = folder
        self._capacity_bytes = capacity_bytes
        self._ttl_s = ttl_s
        self._wall_s = wall_clock
        self._held: BinaryIO | None = None
        self._guard = threading.Lock()
        self._files: dict[str, StoredFile] = {}
        self._n_bytes = 0
        self._reserved_bytes = 0

    def __enter__(self) -> FileStore:
        """Takes over what is there. Raises `ConfigRefused`, or `StartFailed` if another gateway has it."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = self._folder.stat().st_mode & 0o777
            if mode & 0o077:
                raise ConfigRefused("files", f"{self._folder} is open to others (mode {mode:o}), make it 700")
            # opening the lock tells nothing of why it failed
            (self._folder / "lock").touch(mode=0o600)
            self._held = try_lock(self._folder)
            if self._held is None:
                raise StartFailed(f"another gateway keeps its files in {self._folder}")
            for path in self._folder.iterdir():
                if path.name.startswith(_UNFINISHED):
                    path.unlink()
                elif match := _STORED.fullmatch(path.name):
                    expires_at, name = int(match.group(1)), match.group(2)
                    n_bytes = path.stat().st_size
                    self._add(StoredFile(name=name, path=path, n_bytes=n_bytes, expires_at=expires_at))
        except OSError as error:
            self.__exit__(None, None, None)
            raise ConfigRefused("files", f"{self._folder} cannot be used: {error.strerror}") from error
        self.sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    @contextlib.contextmanager
    def room_for(self, generations: Sequence[Generation]) -> Iterator[None]:
        """Holds room for the files of these, however large they turn out.

        Raises `FilesFull`, or `InvalidRequest` if there never will be room.
        """
        n_bytes = sum(map(_largest_file_bytes, generations))
        if n_bytes > self._capacity_bytes:
            raise InvalidRequest(
                f"response_format is url, for which {n_bytes} bytes may be needed; at most"
                f" {self._capacity_bytes} are kept here (files_bytes)",
                param="response_format",
            )
        with self._guard:
            free_bytes = self._capacity_bytes - self._n_bytes - self._reserved_bytes
            if n_bytes > free_bytes:
                raise FilesFull(
                    f"{n_bytes} bytes may be needed for the files, {free_bytes} of {self._capacity_bytes} are"
                    " free; response_format b64_json needs none",
                    retry_after_s=self._first_leaves_in_s(),
                )
            self._reserved_bytes += n_bytes
        try:
            yield
        finally:
            with self._guard:
                self._reserved_bytes -= n_bytes

    def put(self, data: bytes, file_format: FileFormat) -> StoredFile:
        """A new file, whole or not at all. Blocks. Raises `FilesFull` if the disk has no room for it."""
        name = f"{secrets.token_hex(_NAME_BYTES)}.{_SUFFIX[file_format]}"
        expires_at = math.ceil(self._wall_s() + self._ttl_s)
        path = self._folder / f"{expires_at}-{name}"
        unfinished = self._folder / f"{_UNFINISHED}{name}"
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            unfinished.rename(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            text = f"the folder of files cannot take another one: {error.strerror}"
            raise FilesFull(text, retry_after_s=self._first_leaves_in_s()) from error
        stored = StoredFile(name=name, path=path, n_bytes=len(data), expires_at=expires_at)
        with self._guard:
            self._add(stored)
        return stored

    def find(self, name: str) -> StoredFile:
        """Raises `FileUnknown`, from the second on in which it expires."""
        stored = self._files.get(name)
        if stored is None or stored.expires_at <= self._wall_s():
            raise FileUnknown("there is no such file, or no longer")
        return stored

    def sweep(self) -> None:
        """Remove what has expired. Blocks."""
        until = self._wall_s() - _KEPT_LONGER_S
        with self._guard:
            leaving = [stored for stored in self._files.values() if stored.expires_at <= until]
        for stored in leaving:
            stored.path.unlink(missing_ok=True)
            with self._guard:
                del self._files[stored.name]
                self._n_bytes -= stored.n_bytes

    async def swept(self, app: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`: sweeps as long as the application lives."""
        sweeping = asyncio.create_task(self._sweep_on(), name="sweep files")
        yield
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping

    def statistics(self) -> dict[str, int]:
        """Files and their bytes, and bytes that are held for files to come."""
        return {
            "files": len(self._files),
            "n_bytes": self._n_bytes,
            "reserved_bytes": self._reserved_bytes,
        }

    def remaining_s(self, stored: StoredFile) -> int:
        """Whole seconds until it expires."""
        return max(0, math.floor(stored.expires_at - self._wall_s()))

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_EVERY_S, self._ttl_s / 4))
            await asyncio.to_thread(self.sweep)

    def _add(self, stored: StoredFile) -> None:
        self._files[stored.name] = stored
        self._n_bytes += stored.n_bytes

    def _first_leaves_in_s(self) -> float:
        first_s = min((stored.expires_at for stored in self._files.values()), default=0)
        return max(0.0, first_s - self._wall_s()) + _KEPT_LONGER_S + _SWEEP_EVERY_S


def _largest_file_bytes(generation: Generation) -> int:
    """No format makes more of three bytes a pixel, whatever the picture."""
    px = generation.width_px * generation.height_px * generation.num_frames
    return _MAX_BYTES_PER_PX * px + _MAX_BYTES_BESIDE_PX
