"""The file of API keys: who they are of, what they may do, and which of them a caller holds.

The file (TOML, a table `[[key]]` for each) has the SHA-256 of every key and not the key. A key is 256 random
bits of ours, so neither a salt nor a slow hash would add anything: both protect secrets that can be guessed,
or that somebody chose twice. What is compared is the hashes, with all of them, in constant time.

Who may write the file may let anyone in, so one that others may write is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.errors import ConfigRefused

log = logging.getLogger(__name__)

KeyScope = Literal["client", "admin"]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_PREFIX = "triptych-"
_MODE = 0o600
_FIELD = "api_keys"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. `sha256` in hex; `expires` with its offset; `max_in_flight` requests at a time, None: any."""

    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scope: KeyScope = "client"
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    max_in_flight: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: tuple[ApiKey, ...] = ()


def new_key() -> str:
    """256 bits from the system's source."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def load_keys(file: Path) -> tuple[ApiKey, ...]:
    """Raises `ConfigRefused`."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read()
    except OSError as error:
        raise ConfigRefused(_FIELD, f"{file} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigRefused(_FIELD, f"{file} can be written by others: chmod 600 it")
    try:
        keys = msgspec.toml.decode(text, type=_File).key
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigRefused(_FIELD, f"{file}: {error}") from error
    for field in ("name", "sha256"):
        values = [getattr(key, field) for key in keys]
        if len(set(values)) != len(values):
            raise ConfigRefused(_FIELD, f"{file}: two keys have the same {field}")
    return keys


def store_keys(file: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file in one step, so that whoever reads it sees all of it. Raises `ConfigRefused`.

    A file that was there hands on its mode and owner.
    """
    target = file.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        before = target.stat() if target.exists() else None
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        try:
            with open(descriptor, "wb") as opened:
                if before is not None:
                    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
                    with contextlib.suppress(PermissionError):
                        os.fchown(descriptor, before.st_uid, before.st_gid)
                opened.write("\n".join(map(_as_toml, keys)).encode())
                opened.flush()
                os.fsync(descriptor)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigRefused(_FIELD, f"{file} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def changing(file: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile. Raises `ConfigRefused`."""
    try:
        descriptor = os.open(file.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigRefused(_FIELD, f"{file} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _as_toml(key: ApiKey) -> str:
    """A pattern each keeps the strings free of what would need quoting."""
    lines = ["[[key]]", f'name = "{key.name}"', f'scope = "{key.scope}"', f'sha256 = "{key.sha256}"']
    if key.expires is not None:
        lines.append(f"expires = {key.expires.isoformat()}")
    if key.max_in_flight is not None:
        lines.append(f"max_in_flight = {key.max_in_flight}")
    return "\n".join(lines) + "\n"


class KeyRing:
    """The keys that hold now. The file is looked at for every caller and read again when it has changed.

    A file that has become unreadable is told in the log, once, and changes nothing: a slip of the pen locks
    nobody out, and nobody in. Making one raises `ConfigRefused`.
    """

    def __init__(self, file: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file = file
        self._now = now
        self._seen = self._version()
        self._keys = load_keys(file)
        if self._seen is not None and self._seen[0] & (stat.S_IRGRP | stat.S_IROTH):
            log.warning("%s can be read by others; it has hashes only, and still: chmod 600 it", file)
        if not self._keys:
            log.warning("%s has no key: nobody can call", file)

    def holder(self, presented: str) -> ApiKey | None:
        """The key that this is, None if it is none of ours or has expired."""
        if self._version() != self._seen:
            self.read_again()
        digest = digest_of(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
        if found is not None and found.expires is not None and found.expires <= self._now():
            return None
        return found

    def read_again(self) -> None:
        """Whether it has changed or not."""
        self._seen = self._version()
        try:
            keys = load_keys(self._file)
        except ConfigRefused as refused:
            log.error("the API keys stay as they were: %s", refused)
            return
        before, after = ({key.name for key in each} for each in (self._keys, keys))
        self._keys = keys
        log.info(
            "API keys read: %d; new: %s; gone: %s",
            len(keys),
            ", ".join(sorted(after - before)) or "none",
            ", ".join(sorted(before - after)) or "none",
        )

    def _version(self) -> tuple[int, int, int, int] | None:
        try:
            status = os.stat(self._file)
        except OSError:
            return None
        return status.st_mode, status.st_mtime_ns, status.st_size, status.st_ino
