"""What the operator of a gateway meets: starts that are refused, signals, keys, bounds. Real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from gateway.__main__ import main
from gateway.api_keys import ApiKey, digest_of, store_keys
from tests.gateway.conftest import until
from tests.gateway.served import Served, assert_nothing_is_left, gone, post, served

pytestmark = pytest.mark.process

KEY = ApiKey(name="alice", sha256=digest_of("client-key"))


async def status_of(gateway: Served, path: str, **headers: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.url}{path}", headers=headers) as response,
    ):
        return response.status


# starts


async def test_a_second_gateway_is_refused_and_the_first_serves_on(tmp_path: Path) -> None:
    files = tmp_path / "files"
    async with served(tmp_path, "--files", str(files)) as first:
        await first.ready()
        port = first.url.rpartition(":")[2]
        for flags, said in (
            (("--port", port), f"port {port} on 127.0.0.1 is in use"),
            # the same port on another address is free, the runtime folder is not
            (("--port", port, "--host", "127.0.0.2"), "another gateway owns "),
            (("--files", str(files)), f"another gateway keeps its files in {files}"),
        ):
            async with served(tmp_path, *flags) as second:
                assert await second.ended() == 1
                await until(lambda: second.lines and second.lines[-1].startswith("gateway: "))
                assert said in second.lines[-1]
        async with aiohttp.ClientSession() as session:
            assert (await post(session, first))[0] == 200
        folder = first.folder
        first.process.send_signal(signal.SIGTERM)
        assert await first.ended() == 0
        await assert_nothing_is_left(first, folder)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_reach_needs_keys(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", host, "--port", "0", "--log-level", "error"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"gateway: flag --host: host: {host} can be reached from elsewhere: set api_keys")


async def test_keys_or_consent_open_such_an_address(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    store_keys(file, [KEY])
    async with served(tmp_path, "--host", "0.0.0.0", "--api-keys", str(file)) as gateway:
        await gateway.ready()
        assert await status_of(gateway, "/v1/models") == 401
        assert await status_of(gateway, "/v1/models", Authorization="Bearer client-key") == 200
    async with served(tmp_path, "--host", "0.0.0.0", "--allow-unauthenticated") as gateway:
        await gateway.ready()
        assert await status_of(gateway, "/v1/models", Host="box.example") == 200
        assert any("whoever reaches 0.0.0.0 can use this server" in line for line in gateway.lines)


async def test_variables_and_a_file_configure_it_and_the_log_says_so(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text("max_queued_jobs = 5\nmin_samples = 6")
    variables = {"TRIPTYCH_CONFIG": str(file), "TRIPTYCH_MIN_SAMPLES": "7"}
    async with served(tmp_path, variables=variables) as gateway:
        await gateway.ready()
        configured = next(line for line in gateway.lines if "configuration: {" in line)
        config = json.loads(configured[configured.index("{") :])
        assert (config["max_queued_jobs"], config["min_samples"], config["port"]) == (5, 7, 0)
        await gateway.says(f"max_queued_jobs by file {file}, ")
        await gateway.says("min_samples by environment TRIPTYCH_MIN_SAMPLES")


# signals


@pytest.mark.parametrize(
    ("fates", "moment"),
    [((), "configuration set: "), ((), " is up: pid"), (("warm:text_encoder,hang",) * 2, "loaded ")],
)
async def test_a_stop_while_it_starts(tmp_path: Path, fates: tuple[str, ...], moment: str) -> None:
    async with served(tmp_path, "--drain-timeout-s", "60", fates=fates) as gateway:
        await gateway.says(moment)
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        await until(lambda: all(gone(pid) for pid in gateway.pids()), "the workers' end")


async def test_a_second_stop_does_not_wait_for_workers_that_hang(tmp_path: Path) -> None:
    async with served(tmp_path, "--worker-stop-timeout-s", "600") as gateway:
        await gateway.ready()
        folder = gateway.folder
        pids = gateway.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.says("stopping; 0 requests")
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
        await assert_nothing_is_left(gateway, folder)


async def test_new_work_is_refused_with_a_time_while_open_work_ends(tmp_path: Path) -> None:
    flags = ("--drain-timeout-s", "60", "--cpu", "1")
    async with (
        served(tmp_path, *flags, fates=("denoise,hold",)) as gateway,
        aiohttp.ClientSession() as session,
    ):
        await gateway.ready()
        running = asyncio.create_task(post(session, gateway))
        await until(lambda: not list(gateway.fates.iterdir()), "the held task")
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.says("stopping; 1 requests")
        url = f"{gateway.url}/v1/images/generations"
        async with session.post(url, json={"prompt": "a hat"}) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "shutting_down"
        assert await status_of(gateway, "/health") == 200
        assert await status_of(gateway, "/ready") == 503
        assert not running.done()
        # the worker that holds it dies, its successor goes on with it
        os.kill(gateway.pids()[0], signal.SIGKILL)
        assert (await asyncio.wait_for(running, 30))[0] == 200
        assert await gateway.ended() == 0


async def test_a_hangup_reads_the_keys_again_and_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    store_keys(file, [KEY])
    async with served(tmp_path, "--api-keys", str(file)) as gateway:
        await gateway.ready()
        assert await status_of(gateway, "/v1/models", Authorization="Bearer client-key") == 200
        store_keys(file, [])
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.says("API keys read: 0; new: none; gone: alice")
        assert await status_of(gateway, "/v1/models", Authorization="Bearer client-key") == 401
    async with served(tmp_path) as gateway:
        await gateway.ready()
        gateway.process.send_signal(signal.SIGHUP)
        await gateway.says("nothing to read again")
        assert await status_of(gateway, "/ready") == 200


async def test_a_worker_that_never_comes_up_is_given_up_and_the_others_serve(tmp_path: Path) -> None:
    async with (
        served(tmp_path, fates=("hello:cpu-1,die",) * 3) as gateway,
        aiohttp.ClientSession() as session,
    ):
        await gateway.ready()
        await gateway.says("cpu-1 is given up")
        assert (await post(session, gateway))[0] == 200


async def test_the_name_of_the_key_is_logged_and_the_key_is_not(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    store_keys(file, [KEY])
    async with served(tmp_path, "--api-keys", str(file), "--log-level", "debug") as gateway:
        await gateway.ready()
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer client-key"}) as session:
            assert (await post(session, gateway))[0] == 200
        await gateway.says("alice")
        assert not any("client-key" in line for line in gateway.lines)


# bounds


async def answer_to(gateway: Served, sent: bytes) -> bytes:
    """Everything that comes back until the gateway closes the connection."""
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


async def closed_after(gateway: Served, sent: bytes) -> float:
    """Seconds until the gateway closes a connection on which nothing but `sent` comes."""
    began_s = time.monotonic()
    await answer_to(gateway, sent)
    return time.monotonic() - began_s


async def test_connections_are_bounded_in_time(tmp_path: Path) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    async with served(tmp_path, "--idle-timeout-s", "0.5") as gateway:
        await gateway.ready()
        for sent in (b"", head + b"X-Slow: ", head + b"\r\n"):
            assert await closed_after(gateway, sent) >= 0.4


async def test_what_is_no_http_is_an_error_like_any_other(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        await gateway.ready()
        for sent in (
            b"\x16\x03\x01 no HTTP\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
            b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ):
            answer = await answer_to(gateway, sent)
            assert answer.startswith(b"HTTP/1.0 400 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
            assert len(answer) < 1000
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    # who has no key cannot fill the log
    assert not any("aiohttp" in line for line in gateway.lines)


async def test_connections_are_bounded_in_number(tmp_path: Path) -> None:
    async with served(tmp_path, "--max-connections", "2") as gateway:
        await gateway.ready()
        host, _, port = gateway.url.removeprefix("http://").rpartition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        reader, writer = await asyncio.open_connection(host, int(port))
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 2\r\n" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        for _, each in [*held, (reader, writer)]:
            each.close()
            await each.wait_closed()
        async with asyncio.timeout(10):
            while await status_of(gateway, "/health") != 200:  # noqa: ASYNC110 (it happens in another process)
                await asyncio.sleep(0.01)
