"""The whole gateway as a process over scripted worker processes: how it starts, stops and what it leaves."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from gateway.__main__ import main
from tests.gateway.conftest import until
from tests.gateway.served import assert_nothing_is_left, gone, post, served, started
from wire.runtime import RuntimeFolder

pytestmark = pytest.mark.process


async def test_it_serves_survives_a_kill_and_leaves_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    async with served(tmp_path, "--journal", str(journal)) as gateway, aiohttp.ClientSession() as session:
        line = await gateway.ready()
        assert line.rstrip().endswith("model triptych-emoji on cpu-0, cpu-1")
        folder = gateway.folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (await post(session, gateway))[0] == 200
        (gateway.fates / "00,denoise,die").touch()
        assert (await post(session, gateway))[0] == 200
        await until(lambda: len(gateway.pids()) == 3, "the successor")
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        await assert_nothing_is_left(gateway, folder)
        assert any("configuration: {" in line for line in gateway.lines)
        assert '"outcome":"done"' in journal.read_text()


async def test_a_stop_drains_and_a_second_one_hurries(tmp_path: Path) -> None:
    flags = ("--drain-timeout-s", "60")
    async with (
        served(tmp_path, *flags, fates=("denoise,hold",)) as gateway,
        aiohttp.ClientSession() as session,
    ):
        await gateway.ready()
        folder = gateway.folder
        running = asyncio.create_task(post(session, gateway))
        await started(gateway, session, 'triptych_jobs{state="diffusing"}')
        gateway.process.send_signal(signal.SIGINT)
        await until(lambda: any("stopping; 1 requests" in line for line in gateway.lines))
        status, body = await post(session, gateway)
        assert status == 503
        assert "shutting_down" in str(body)
        assert not running.done()
        gateway.process.send_signal(signal.SIGINT)
        status, body = await running
        assert status == 503
        assert "shutting_down" in str(body)
        assert await gateway.ended() == 0
        await assert_nothing_is_left(gateway, folder)


async def test_a_stop_has_a_bound(tmp_path: Path) -> None:
    flags = ("--drain-timeout-s", "0.2")
    async with (
        served(tmp_path, *flags, fates=("denoise,hang",)) as gateway,
        aiohttp.ClientSession() as session,
    ):
        await gateway.ready()
        folder = gateway.folder
        running = asyncio.create_task(post(session, gateway))
        await started(gateway, session, 'triptych_jobs{state="diffusing"}')
        gateway.process.send_signal(signal.SIGTERM)
        assert (await running)[0] == 503
        assert await gateway.ended() == 0
        await assert_nothing_is_left(gateway, folder)


async def test_a_killed_gateway_takes_its_workers_along(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        await gateway.ready()
        folder = gateway.folder
        gateway.process.kill()
        await gateway.ended()
        await until(lambda: all(gone(pid) for pid in gateway.pids()), "the workers' end")
        # the next gateway, on any port, removes what the dead one could not
        with RuntimeFolder("tests", root=folder.parent):
            assert not folder.exists()


@pytest.mark.parametrize(
    ("fates", "said"),
    [
        (("describe,fail",), "gateway: triptych-emoji cannot be served: no such blocks"),
        (("load:denoise,fail",), "cannot load text_encoder, denoise, decode: no weights"),
        (("hello,other_version",), "speaks protocol"),
    ],
)
async def test_a_failed_start_is_one_line_and_exit_code_1(
    tmp_path: Path, fates: tuple[str, ...], said: str
) -> None:
    async with served(tmp_path, fates=fates) as gateway:
        assert await gateway.ended() == 1
        await until(lambda: gateway.lines[-1].startswith("gateway: "))
        assert said in gateway.lines[-1]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_busy_port_is_said_at_once(taken: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", str(taken), "--log-level", "error"]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == f"gateway: port {taken} on 127.0.0.1 is in use"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--model nope", "flag --model: models: unknown model 'nope'; known: "),
        ("--catalogue /no/such.toml", "flag --catalogue: catalogues: "),
        ("--journal /no/such/folder/j", "flag --journal: journal: "),
        ("--max-queued 0", "flag --max-queued: max_queued_jobs: 0 is less than 1"),
        ("--api-keys /no/such/keys", "flag --api-keys: api_keys: /no/such/keys cannot be read: No such file"),
        ("--cpu 0", "flag --cpu: cpu: 0 is less than 1"),
        ("--gpus x", "flag --gpus: gpus: "),
        ("--placement cpu-9=denoise", "flag --placement: placement: "),
    ],
)
def test_what_cannot_be_honoured_is_one_line_and_exit_code_2(
    flags: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port", "0", "--log-level", "error", *flags.split()]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"gateway: {said}")
