from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from bench.node import Node, NodeConfig, NodeFailed

SCRIPT = """
import http.server, json, os, signal, subprocess, sys

mode = sys.argv[sys.argv.index("--mode") + 1]
port = int(sys.argv[sys.argv.index("--port") + 1])
print("starting", mode, flush=True)
if mode == "dies":
    sys.exit("gateway: model: not here")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5 if mode == "sulks" else 0))
if mode == "litters":
    code = "import signal; signal.pause()"
    subprocess.Popen([sys.executable, "-c", code, "--worker-id", "cpu-0"], start_new_session=True)
asked = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        status = 200 if asked > 1 and mode != "never" else 503
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"error": {"message": "denoise is not warm"}}).encode())
    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "gateway.py"
    script.write_text(SCRIPT)
    return (sys.executable, "-S", str(script))


def config(
    folder: Path, mode: str, *, ready_timeout_s: float = 30.0, stop_timeout_s: float = 30.0
) -> NodeConfig:
    return NodeConfig(
        name="node",
        folder=folder / "logs",
        model="tiny",
        workers=("--cpu", "2"),
        flags=("--mode", mode),
        ready_timeout_s=ready_timeout_s,
        stop_timeout_s=stop_timeout_s,
    )


async def test_starts_waits_and_stops(tmp_path: Path, command: tuple[str, ...]) -> None:
    waited: list[str] = []
    async with Node(config(tmp_path, "good"), on_wait=waited.append, command=command) as node:
        with socket.create_connection(("127.0.0.1", node.port)):
            pass
    assert waited[-1] == "denoise is not warm"
    assert node.log.read_text() == "starting good\n"
    assert node.journal == tmp_path / "logs" / "node.jsonl"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.port))


async def test_says_why_it_did_not_start(tmp_path: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(NodeFailed, match=r"exit code 1\n(.|\n)*model: not here"):
        async with Node(config(tmp_path, "dies"), command=command):
            raise AssertionError


async def test_says_why_it_is_not_ready(tmp_path: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(NodeFailed, match="not ready after 1 s: denoise is not warm"):
        async with Node(config(tmp_path, "never", ready_timeout_s=1.0), command=command):
            raise AssertionError


async def test_kills_one_that_does_not_stop(tmp_path: Path, command: tuple[str, ...]) -> None:
    node = Node(config(tmp_path, "stubborn", stop_timeout_s=0.2), command=command)
    with pytest.raises(NodeFailed, match="did not stop in 0 s and was killed"):
        async with node:
            pass


async def test_tells_of_a_bad_end_and_of_what_is_left(
    tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_PORT", "1")
    with pytest.raises(NodeFailed, match="the gateway ended with exit code 5"):
        async with Node(config(tmp_path, "sulks"), command=command):
            pass
    with pytest.raises(NodeFailed, match=r"process \d+ is left") as caught:
        async with Node(config(tmp_path, "litters"), command=command) as node:
            environment = node.worker_environment()
    assert environment["PATH"] == os.environ["PATH"]
    # what configures another gateway is none of this one's
    assert "TRIPTYCH_PORT" not in environment
    pid = int(str(caught.value).split()[1])
    os.kill(pid, signal.SIGKILL)


async def test_an_error_inside_is_not_hidden(tmp_path: Path, command: tuple[str, ...]) -> None:
    with pytest.raises(KeyError) as caught:
        async with Node(config(tmp_path, "sulks"), command=command):
            raise KeyError("mine")
    assert caught.value.__notes__ == ["the gateway ended with exit code 5"]


async def test_a_gateway_that_ends_by_itself_is_told_of(tmp_path: Path, command: tuple[str, ...]) -> None:
    node = Node(config(tmp_path, "dies"), command=command)
    await node.start()
    assert await node.ended() == 1
    assert "model: not here" in node.read_log()

    async def never() -> bool:
        return False

    with pytest.raises(NodeFailed, match="ended while waiting for the impossible"):
        await node.wait_until(never, "the impossible")
    assert await node.stop() == ["the gateway ended with exit code 1"]


async def test_waits_for_a_condition_within_a_bound(tmp_path: Path, command: tuple[str, ...]) -> None:
    asked: list[bool] = []

    async def at_the_third() -> bool:
        asked.append(True)
        return len(asked) == 3

    async with Node(config(tmp_path, "good"), command=command) as node:
        await node.wait_until(at_the_third, "the third time")
        with pytest.raises(NodeFailed, match="waited 0 s in vain for more"):
            await node.wait_until(at_the_third, "more", timeout_s=0.1)
    assert len(asked) > 3
