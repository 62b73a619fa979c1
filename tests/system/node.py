"""A real node for tests: a gateway process with its worker processes, over real sockets and HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from pipelines.catalogue import Model, to_entry

CHECKOUT = Path(__file__).parents[2]
_START_S = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def catalogue_file(folder: Path, name: str, model: Model) -> Path:
    """A catalogue with this one further model."""
    lines = [f"[{name}]"]
    for key, value in to_entry(model).items():
        if isinstance(value, dict):
            pairs = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{key} = {{{pairs}}}")
        elif value is not None:
            # TOML has no null, and leaving a field out is the same
            lines.append(f"{key} = {json.dumps(value)}")
    file = folder / "catalogue.toml"
    file.write_text("\n".join(lines) + "\n")
    msgspec.toml.decode(file.read_bytes())
    return file


class Node:
    """One running gateway. Made by `running_node`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, journal: Path) -> None:
        self.process = process
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self._log = log
        self._journal = journal

    def log(self) -> str:
        return self._log.read_text()

    def journal(self) -> list[dict[str, object]]:
        """Complete lines so far."""
        if not self._journal.exists():
            return []
        return [
            json.loads(line)
            for line in self._journal.read_text().splitlines(keepends=True)
            if line[-1] == "\n"
        ]

    def worker_pids(self) -> dict[str, int]:
        """The newest process of each worker, from the log."""
        return {worker: int(pid) for worker, pid in re.findall(r"(\S+) is up: pid (\d+)", self.log())}

    def metric(self, line: str) -> float:
        """The value of one line of `/metrics`, named as it stands there; 0 if it is not there."""
        with urllib.request.urlopen(f"{self.base_url}/metrics", timeout=30) as reply:
            text = reply.read().decode()
        for row in text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/ready", timeout=5):
                return True
        except OSError:
            return False

    def wait_ready(self) -> None:
        self.wait(self.is_ready, "ready")

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = _START_S) -> None:
        """Poll until `condition` holds; fails with the log if it does not, or if the gateway ends."""
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"gateway ended while waiting for {what}:\n{self.log()}"
            assert time.monotonic() < until_s, f"waited in vain for {what}:\n{self.log()}"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the gateway and wait for its end; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def running_node(folder: Path, model: str, *flags: str, ready: bool = True) -> Iterator[Node]:
    """A node that serves `model`; at the end it is stopped, and killed if it does not."""
    port = free_port()
    log, journal = folder / "gateway.log", folder / "journal.jsonl"
    command = [sys.executable, "-m", "gateway", "--port", str(port), "--model", model]
    command += ["--journal", str(journal), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdout=output, stderr=output, env=os.environ)
    node = Node(process, port, log, journal)
    try:
        if ready:
            node.wait_ready()
        yield node
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
