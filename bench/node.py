"""One real gateway as a subprocess: started, waited for, stopped, and checked that it left nothing.

The gateway is in a session of its own, so Ctrl-C reaches only us and we stop it in order; should we be killed
outright, the kernel sends it SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from wire.runtime import RuntimeFolder

CHECKOUT = Path(__file__).resolve().parents[1]
GATEWAY = (sys.executable, "-m", "gateway")
_HOST = "127.0.0.1"
_POLL_S = 0.1
_CONDITION_POLL_S = 0.02
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
    """A running gateway inside `async with`, or from `start` to `stop`.

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
        await self.start()
        try:
            await self.wait_ready()
        except BaseException as error:
            await self._stop_after(error)
            raise
        return self

    async def start(self) -> None:
        """Returns when the process runs, which is long before it is ready."""
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
                env=_environment(),
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await self._stop_after(error)
        elif problems := await self.stop():
            raise NodeFailed(f"{'; '.join(problems)}\n{self.log_tail()}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> list[str]:
        """`number`, after `stop_timeout_s` SIGKILL. Returns what was wrong with how it went."""
        process = self._process
        if process is None:
            return []
        workers = _children(process.pid)
        problems: list[str] = []
        try:
            _signal(process, number)
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

    @property
    def pid(self) -> int:
        """The gateway's process id. Raises `NodeFailed` if none was started."""
        if self._process is None:
            raise NodeFailed("the gateway does not run")
        return self._process.pid

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        if self._process is None:
            raise NodeFailed("the gateway does not run")
        return await self._process.wait()

    def kill(self) -> None:
        """SIGKILL to the gateway. `stop` has still to be called."""
        os.kill(self.pid, signal.SIGKILL)

    def worker_pids(self) -> dict[str, int]:
        """Process id of each worker that lives now, by worker id; one may be at its start still."""
        found: dict[str, int] = {}
        for pid in _children(self.pid):
            with contextlib.suppress(OSError, ValueError):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                found[arguments[arguments.index("--worker-id") + 1]] = pid
        return dict(sorted(found.items()))

    def worker_environment(self) -> dict[str, str]:
        """The environment of one of its workers. Raises `NodeFailed` if it has none."""
        for pid in self.worker_pids().values() if self._process is not None else ():
            with contextlib.suppress(OSError):
                entries = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
                return dict(entry.split("=", 1) for entry in entries if "=" in entry)
        raise NodeFailed("the gateway has no worker")

    def runtime_folder(self) -> Path:
        """Its folder in shared memory. Raises `NodeFailed` if there is none."""
        for folder in self._runtime_folders():
            if folder.exists():
                return folder
        raise NodeFailed("the gateway has no runtime folder")

    async def is_ready(self) -> bool:
        """Whether every stage can be run now."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session() as session, session.get("/ready") as reply:
                return reply.status == 200
        return False

    async def metric(self, name: str, **labels: str) -> float:
        """The sum over the lines of `/metrics` of that name that have these labels; 0 if there is none."""
        async with self._session() as session, session.get("/metrics") as reply:
            reply.raise_for_status()
            families = text_string_to_metric_families(await reply.text())
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    async def fleet(self) -> dict[str, Any]:
        """The body of `/v1/fleet`."""
        async with self._session() as session, session.get("/v1/fleet") as reply:
            reply.raise_for_status()
            body: dict[str, Any] = await reply.json()
        return body

    def read_log(self) -> str:
        """All that the gateway and its workers have said."""
        return self.log.read_text("utf-8", "replace")

    def read_journal(self) -> list[dict[str, Any]]:
        """The whole lines of the journal so far."""
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in self.journal.read_bytes().split(b"\n")[:-1]]

    def log_tail(self) -> str:
        """The last lines of the gateway's log."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text("utf-8", "replace").splitlines()
            return "\n".join([f"the end of {self.log}:", *lines[-_LOG_LINES:]])
        return ""

    async def wait_ready(self) -> None:
        """Returns when it is ready. Raises `NodeFailed` if it is not in time, or ends."""
        process = self._process
        if process is None:
            raise NodeFailed("the gateway does not run")
        deadline_s = time.monotonic() + self._config.ready_timeout_s
        reason = "it does not answer"
        async with self._session() as session:
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

    async def wait_until(
        self, condition: Callable[[], Awaitable[bool]], what: str, *, timeout_s: float = 120.0
    ) -> None:
        """Polls until `condition` holds. Raises `NodeFailed` if it does not, or if the gateway ends."""
        deadline_s = time.monotonic() + timeout_s
        while not await condition():
            if self._process is None or self._process.returncode is not None:
                raise NodeFailed(f"the gateway ended while waiting for {what}\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise NodeFailed(f"waited {timeout_s:.0f} s in vain for {what}\n{self.log_tail()}")
            await asyncio.sleep(_CONDITION_POLL_S)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self.base_url, timeout=aiohttp.ClientTimeout(total=30.0))

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


def _environment() -> dict[str, str]:
    """Ours, with the checkout on the path and without what configures another gateway."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRIPTYCH_")}
    return own | {"PYTHONPATH": _with_checkout(os.environ.get("PYTHONPATH"))}


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
