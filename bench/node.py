"""One real gateway as a subprocess: started, waited for, stopped, and checked that it left nothing.

The gateway is in a session of its own, so Ctrl-C reaches only us and we stop it in order; should we be killed
outright, the kernel sends it SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import aiohttp

from wire.runtime import RuntimeFolder

CHECKOUT = Path(__file__).resolve().parents[1]
GATEWAY = (sys.executable, "-m", "gateway")
_HOST = "127.0.0.1"
_POLL_S = 0.1
_LOG_LINES = 15
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

OnWait = Callable[[str], None]


class NodeFailed(Exception):
    """The gateway did not come up, did not stop, or left something behind; the text says what and why."""


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """One gateway. `workers`: the flags that choose them; `flags`: further ones; `port` None: a free one.

    Journal and log are `folder`/`name`.jsonl and .log.
    """

    name: str
    folder: Path
    model: str
    workers: tuple[str, ...]
    placement: str = "auto"
    flags: tuple[str, ...] = ()
    port: int | None = None
    ready_timeout_s: float = 180.0
    stop_timeout_s: float = 30.0


class Node:
    """A running gateway inside `async with`.

    Entering raises `NodeFailed` if it is not ready in time; leaving raises it if the gateway had to be
    killed, ended with another code than 0 or left a process, a folder or its port behind. Cancellation at
    any point stops the gateway; cancelled again, it is killed.
    """

    def __init__(
        self, config: NodeConfig, *, on_wait: OnWait | None = None, command: Sequence[str] = GATEWAY
    ) -> None:
        self._config = config
        self._on_wait = on_wait
        self._command = command
        self._process: Process | None = None
        self.port = config.port or _free_port()
        self.base_url = f"http://{_HOST}:{self.port}"
        self.journal = config.folder / f"{config.name}.jsonl"
        self.log = config.folder / f"{config.name}.log"

    async def __aenter__(self) -> Node:
        self._config.folder.mkdir(parents=True, exist_ok=True)
        self.journal.unlink(missing_ok=True)
        with open(self.log, "wb") as log:  # noqa: ASYNC230 (a local file, before anything runs)
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *("--host", _HOST),
                *("--port", str(self.port)),
                *("--model", self._config.model),
                *self._config.workers,
                *("--placement", self._config.placement),
                *("--journal", str(self.journal)),
                *self._config.flags,
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                cwd=CHECKOUT,
                env=os.environ | {"PYTHONPATH": _with_checkout(os.environ.get("PYTHONPATH"))},
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )
        try:
            await self._wait_ready(self._process)
        except BaseException as error:
            await self._stop_after(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await self._stop_after(error)
        elif problems := await self.stop():
            raise NodeFailed(f"{'; '.join(problems)}\n{self.log_tail()}")

    async def stop(self) -> list[str]:
        """SIGTERM, after `stop_timeout_s` SIGKILL. Returns what was wrong with how it went."""
        process = self._process
        if process is None:
            return []
        workers = _children(process.pid)
        problems: list[str] = []
        try:
            _signal(process, signal.SIGTERM)
            async with asyncio.timeout(self._config.stop_timeout_s):
                code = await process.wait()
            if code != 0:
                problems.append(f"the gateway ended with exit code {code}")
        except TimeoutError:
            problems.append(f"the gateway did not stop in {self._config.stop_timeout_s:.0f} s and was killed")
            _signal(process, signal.SIGKILL)
            await process.wait()
        except asyncio.CancelledError:
            _signal(process, signal.SIGKILL)
            raise
        problems += [f"process {pid} is left" for pid, start in workers.items() if _start_time(pid) == start]
        problems += [f"the folder {path} is left" for path in self._runtime_folders() if path.exists()]
        if _is_listening(self.port):
            problems.append(f"port {self.port} is still open")
        self._process = None
        return problems

    def worker_environment(self) -> dict[str, str]:
        """The environment of one of its workers. Raises `NodeFailed` if it has none."""
        for pid in _children(self._process.pid) if self._process is not None else ():
            with contextlib.suppress(OSError):
                entries = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
                return dict(entry.split("=", 1) for entry in entries if "=" in entry)
        raise NodeFailed("the gateway has no worker")

    def log_tail(self) -> str:
        """The last lines of the gateway's log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text("utf-8", "replace").splitlines()
            return "\n".join([f"the end of {self.log}:", *lines[-_LOG_LINES:]])
        return ""

    async def _wait_ready(self, process: Process) -> None:
        deadline_s = time.monotonic() + self._config.ready_timeout_s
        reason = "it does not answer"
        async with aiohttp.ClientSession(self.base_url, timeout=aiohttp.ClientTimeout(total=5.0)) as session:
            while time.monotonic() < deadline_s:
                with contextlib.suppress(TimeoutError):
                    code = await asyncio.wait_for(process.wait(), _POLL_S)
                    raise NodeFailed(f"the gateway ended with exit code {code}\n{self.log_tail()}")
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                    async with session.get("/ready") as reply:
                        if reply.status == 200:
                            return
                        reason = str((await reply.json()).get("error", {}).get("message", reply.reason))
                if self._on_wait is not None:
                    self._on_wait(reason)
        waited = f"the gateway is not ready after {self._config.ready_timeout_s:.0f} s"
        raise NodeFailed(f"{waited}: {reason}\n{self.log_tail()}")

    async def _stop_after(self, error: BaseException) -> None:
        for problem in await self.stop():
            error.add_note(problem)

    def _runtime_folders(self) -> list[Path]:
        roots = (Path("/dev/shm"), Path(tempfile.gettempdir()))
        return [RuntimeFolder(str(self.port), root=root).path for root in roots]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0


def _with_checkout(path: str | None) -> str:
    return os.pathsep.join([str(CHECKOUT), *([path] if path else [])])


def _stop_with_parent() -> None:
    """Runs in the child before it becomes the gateway."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _children(parent: int) -> dict[int, str]:
    """Process id -> start time of the children of `parent`."""
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields and int(fields[1]) == parent:
            found[int(folder.name)] = fields[19]
    return found


def _start_time(pid: int) -> str | None:
    """When a process started, None if it is gone; ids are used again, start times are not."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before may hold spaces."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []
