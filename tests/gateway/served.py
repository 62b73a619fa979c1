"""A gateway as a process over scripted worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from gateway.supervisor import CHECKOUT
from tests.gateway.conftest import PATIENCE_S, until
from wire.runtime import RuntimeFolder


class Served:
    """A running gateway process. `lines` of its log, the newest last."""

    def __init__(self, process: Process, fates: Path) -> None:
        self.process = process
        self.fates = fates
        self.lines: list[str] = []
        self.url = ""

    async def ready(self) -> str:
        assert self.process.stdout is not None
        line = (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S)).decode()
        assert line.startswith("ready: http://"), (line, self.lines)
        self.url = line.split()[1]
        return line

    @property
    def folder(self) -> Path:
        port = self.url.rpartition(":")[2]
        roots = [Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp"))]
        return next(
            (path for root in roots if (path := RuntimeFolder(port, root=root).path).exists()),
            Path("/nowhere"),
        )

    def pids(self) -> list[int]:
        return [int(line.split("pid ")[1].split(",")[0]) for line in self.lines if " is up: pid " in line]

    async def says(self, text: str) -> None:
        """Until a line of its log has `text`."""
        await until(lambda: any(text in line for line in self.lines), text)

    async def ended(self) -> int:
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


@contextlib.asynccontextmanager
async def served(
    tmp_path: Path, *flags: str, fates: tuple[str, ...] = (), variables: Mapping[str, str] | None = None
) -> AsyncIterator[Served]:
    folder = tmp_path / "fates"
    folder.mkdir(exist_ok=True)
    for number, fate in enumerate(fates):
        (folder / f"{number:02},{fate}").touch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.gateway.scripted_gateway", str(folder), "--port", "0", "--cpu", "2"),
        *flags,
        stdout=PIPE,
        stderr=PIPE,
        cwd=CHECKOUT,
        env={name: os.environ[name] for name in os.environ if not name.startswith("TRIPTYCH_")}
        | {"TRIPTYCH_PROFILE": "off", **(variables or {})},
    )
    gateway = Served(process, folder)

    async def listen() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            gateway.lines.append(line.decode().rstrip())

    listening = asyncio.create_task(listen())
    try:
        yield gateway
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await listening
        # asyncio leaves the pipes to the garbage collector otherwise, which warns
        process._transport.close()  # type: ignore[attr-defined]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def assert_nothing_is_left(gateway: Served, folder: Path) -> None:
    await until(lambda: all(gone(pid) for pid in gateway.pids()), "the workers' end")
    assert not os.path.exists(folder)  # noqa: ASYNC240 (a test may wait for its disk)
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1).close()


async def post(session: aiohttp.ClientSession, gateway: Served) -> tuple[int, dict[str, object]]:
    async with session.post(f"{gateway.url}/v1/images/generations", json={"prompt": "a hat"}) as response:
        return response.status, await response.json()


async def started(gateway: Served, session: aiohttp.ClientSession, metric: str) -> None:
    """Until `metric` shows one job."""

    async def shown() -> bool:
        async with session.get(f"{gateway.url}/metrics") as response:
            return f"{metric} 1.0" in await response.text()

    async with asyncio.timeout(PATIENCE_S):
        while not await shown():  # noqa: ASYNC110 (the event is in another process)
            await asyncio.sleep(0.01)
