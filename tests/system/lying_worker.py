"""`python -m tests.system.lying_worker ...`: a real worker that lies where a prompt tells it to.

A prompt like "a fox {hang StepDone denoise 3 once}" has what the worker would say at that point replaced by a
fault: the name of the fault, the message, its stage, and with StepDone its step. "once" holds for all workers
together: the first one that gets there takes the file of that name out of the folder LIES_FOLDER. A file
"hang-load" there makes the next load hang.

Faults, on the device's thread: "hang", "raise", "memory", "torch_memory", "exit" (what it has just said may
be lost with it), "leave" (it exits when all it has said was sent); of messages: "twice", "garbage" before it,
"others" (it ends tasks that it does not have, and claims another's).
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import torch
import zmq.asyncio

from tests.system.nodes import LIES_FOLDER
from wire.sockets import WorkerSocket
from wire.to_gateway import (
    FailureKind,
    Phase,
    StageDone,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
)
from wire.to_worker import LoadStages, RunTask
from worker.__main__ import main
from worker.commands import Command
from worker.device import DeviceLoop
from worker.task_run import Doing, Emit

_LIE = re.compile(r"{(\w+) (\w+) (\w+)(?: (\d+))?( once)?}")
_LEAVE = b"leave"
_GARBAGE = (b"\xc1 no message at all", b"\x81\xa4type\xa7Nothing", b"")


class Lie(msgspec.Struct, frozen=True):
    """What befalls the message of that type and stage, at that step if one is named."""

    fault: str
    message: str
    stage: str
    step: int | None
    once: str | None

    def meets(self, message: Any) -> bool:
        return (
            type(message).__name__ == self.message
            and getattr(message, "stage", self.stage) == self.stage
            and (self.step is None or message.step == self.step)
            and (self.once is None or taken(self.once))
        )


def lie_of(prompt: str) -> Lie | None:
    """The one in a prompt."""
    if (found := _LIE.search(prompt)) is None:
        return None
    fault, message, stage, step, once = found.groups()
    return Lie(fault, message, stage, None if step is None else int(step), prompt if once else None)


def taken(name: str) -> bool:
    """Whether the file of that name was there; it is not any more."""
    try:
        (Path(os.environ[LIES_FOLDER]) / name).unlink()
    except FileNotFoundError:
        return False
    return True


class LyingLoop(DeviceLoop):
    """Between the device and the socket."""

    def __init__(self, device: torch.device, store: Any, emit: Emit, *others: Any, **named: Any) -> None:
        self._lies: dict[str, Lie] = {}
        self._say = emit
        super().__init__(device, store, self._lying, *others, **named)

    def submit(self, command: Command) -> None:
        if isinstance(command, RunTask) and (lie := lie_of(command.generation.prompt)):
            self._lies[command.task_id] = lie
        super().submit(command)

    def _load(self, command: LoadStages) -> None:
        if taken("hang-load"):
            self.doing = Doing(Phase.LOADING, time.monotonic())
            threading.Event().wait()
        super()._load(command)

    def _lying(self, message: Any) -> None:
        lie = self._lies.get(getattr(message, "task_id", ""))
        if lie is None or not lie.meets(message):
            self._say(message)
            return
        match lie.fault:
            case "hang":
                threading.Event().wait()
            case "raise":
                raise ValueError("as the prompt says")
            case "memory":
                raise MemoryError
            case "torch_memory":
                raise torch.OutOfMemoryError("tried to allocate as much as the prompt says")
            case "exit":
                os._exit(1)
            case "leave":
                self._say(_LEAVE)  # type: ignore[arg-type]
                threading.Event().wait()
            case "twice":
                self._say(message)
            case "garbage":
                for data in _GARBAGE:
                    self._say(data)  # type: ignore[arg-type]
            case "others":
                self._claim(message)
        self._say(message)

    def _claim(self, message: Any) -> None:
        """Words about tasks that are not its own, and about stages that its task has not."""
        for other in ("task-unknown", f"task-{'0' * 32}"):
            self._say(StageStarted(task_id=other, stage="denoise", started_at_s=0.0))
            self._say(TaskFailed(task_id=other, stage="denoise", kind=FailureKind.INTERNAL, reason="a lie"))
            self._say(TaskCancelled(task_id=other, step=1))
            if isinstance(message, TaskDone):
                self._say(TaskDone(task_id=other, output=message.output))
        self._say(StepDone(task_id=message.task_id, step=10**6, steps=1, done_at_s=0.0))
        self._say(StageDone(task_id=message.task_id, stage="nowhere", started_at_s=0.0, ended_at_s=-1.0))


class LyingSocket(WorkerSocket):
    """Sends bytes as they are, or leaves."""

    async def send(self, message: Any) -> None:
        if message == _LEAVE:
            self._socket.close(linger=-1)
            zmq.asyncio.Context.instance().term()
            os._exit(1)
        if isinstance(message, bytes):
            await self._socket.send(message)
        else:
            await super().send(message)


if __name__ == "__main__":
    with (
        mock.patch("worker.process.DeviceLoop", LyingLoop),
        mock.patch("worker.process.WorkerSocket", LyingSocket),
    ):
        sys.exit(main())
