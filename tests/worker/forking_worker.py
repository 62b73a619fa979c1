"""A process that makes workers by fork, so that killing one costs no start of an interpreter.

Reads one order a line from stdin: a model's catalogue entry, a task, the folder of the store. Each order gets
a forked child that runs the task and writes every message that carries a handle to stdout, after its own
process id. Behind the checkpoint of step `hang_at` it waits to be killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from wire.handoff import HandoffStore
from wire.to_gateway import CheckpointSaved, StageDone, TaskDone, TaskFailed, ToGateway
from wire.to_worker import LoadStages, RunTask
from worker.device import DeviceLoop


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """`stages` are loaded, `task` is run."""

    entry: dict[str, Any]
    stages: tuple[str, ...]
    task: RunTask
    folder: str
    hang_at: int


def run(order: Order) -> None:
    """Never returns: ends with a failure of the task, or hangs."""

    def emit(message: ToGateway) -> None:
        if isinstance(message, StageDone | CheckpointSaved | TaskDone | TaskFailed):
            sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
            sys.stdout.buffer.flush()
        if isinstance(message, TaskFailed | TaskDone):
            os._exit(1)
        if isinstance(message, CheckpointSaved) and message.step == order.hang_at:
            while True:
                time.sleep(60)

    store = HandoffStore(Path(order.folder), node="here", capacity_bytes=100_000_000)
    loop = DeviceLoop(torch.device("cpu"), store, emit)
    loop.submit(LoadStages(model=order.task.model, entry=order.entry, stages=order.stages))
    loop.submit(order.task)
    loop.run()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            run(order)


if __name__ == "__main__":
    main()
