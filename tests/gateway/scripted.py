"""Workers without a model: they speak the real link and meet the fates that a test gives them.

In-process (see `scripted_fleet`) or as processes:
`python -m tests.gateway.scripted --worker-id cpu-0 ... --fates FOLDER`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from planner.types import StageKey
from tests.gateway.fates import Fates, FolderFates
from tests.gateway.toy import (
    NODE,
    checkpoint_of,
    encoded_of,
    graph,
    measurements,
    picture_for,
    weight_bytes,
)
from wire.codec import PROTOCOL_VERSION
from wire.errors import HandoffLost, StoreFull
from wire.generation import Exactness
from wire.handle import Handle
from wire.handoff import HandoffStore
from wire.runtime import node_name
from wire.sockets import WorkerSocket
from wire.to_gateway import (
    CheckpointSaved,
    Described,
    DescribeFailed,
    FailureKind,
    Goodbye,
    Heartbeat,
    Hello,
    LoadFailed,
    ModelForgotten,
    Phase,
    ProfileFailed,
    ProfileMeasured,
    ProfileProgress,
    StageDone,
    StagesEvicted,
    StagesLoaded,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
    ToGateway,
)
from wire.to_worker import (
    CancelTask,
    Describe,
    EvictStages,
    ForgetModel,
    LoadStages,
    MeasureProfile,
    PauseTask,
    Refused,
    RunTask,
    Stop,
    ToWorker,
)

KERNELS: dict[str, tuple[str, tuple[int, ...]]] = {}
"""What scripted workers find to be the fastest way of calls."""


class Died(Exception):
    """The worker is gone without a word."""


class Ended(Exception):
    """The task had its terminal message."""


class ScriptedWorker:
    """One incarnation. `heard` are the messages it got, `release` ends every "hold"."""

    def __init__(
        self,
        worker_id: str,
        *,
        endpoint: str,
        store: HandoffStore,
        node: str = NODE,
        fates: Fates,
        release: asyncio.Event,
        heard: list[ToWorker],
        heartbeat_s: float = 0.05,
    ) -> None:
        self._id = worker_id
        self._store = store
        self._node = node
        self._fates = fates
        self._release = release
        self._heard = heard
        self._heartbeat_s = heartbeat_s
        self._socket = WorkerSocket(endpoint, worker=worker_id)
        self._orders: asyncio.Queue[ToWorker] = asyncio.Queue()
        self._cancelled: set[str] = set()
        self._pausing: set[str] = set()
        self._cancels = asyncio.Event()
        self._silent = False
        self._held: set[StageKey] = set()
        self._later: list[asyncio.Task[None]] = []
        self.n_said = 0

    async def run(self) -> None:
        """Until told to stop. Raises `Died`."""
        with self._socket:
            if self._fates.take(f"hello:{self._id}") == "die":
                raise Died
            wrong = self._fates.take("hello") == "other_version"
            await self._say(
                Hello(
                    protocol_version=PROTOCOL_VERSION + wrong,
                    worker=self._id,
                    pid=os.getpid(),
                    node=self._node,
                    device="cpu",
                    device_name="scripted",
                    threads=1,
                )
            )
            beating = asyncio.create_task(self._beat())
            hearing = asyncio.create_task(self._hear())
            working = asyncio.create_task(self._work())
            try:
                done, _ = await asyncio.wait((hearing, working), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                ending = (beating, hearing, working, *self._later)
                for task in ending:
                    task.cancel()
                await asyncio.gather(*ending, return_exceptions=True)

    async def _say(self, message: ToGateway) -> None:
        await self._socket.send(message)
        self.n_said += 1

    async def _beat(self) -> None:
        while True:
            if not self._silent:
                await self._say(Heartbeat(phase=Phase.IDLE, since_s=time.monotonic()))
            await asyncio.sleep(self._heartbeat_s)

    async def _hear(self) -> None:
        while True:
            message = await self._socket.receive()
            self._heard.append(message)
            match message:
                case Stop() | Refused():
                    if isinstance(message, Stop):
                        await self._say(Goodbye(reason="told to stop"))
                    return
                case CancelTask():
                    self._cancelled.add(message.task_id)
                    self._cancels.set()
                case PauseTask():
                    self._pausing.add(message.task_id)
                    self._cancels.set()
                case _:
                    self._orders.put_nowait(message)

    async def _work(self) -> None:
        while True:
            match await self._orders.get():
                case Describe() as order:
                    fate = self._fates.take("describe", order.model)
                    if fate == "die":
                        raise Died
                    if fate == "hold":
                        await self._hold()
                    if fate == "fail":
                        await self._say(DescribeFailed(model=order.model, reason="no such blocks"))
                    else:
                        described = (
                            {"text": {}}
                            if fate == "lie"
                            else msgspec.to_builtins({"text": graph(order.model)})
                        )
                        weights = weight_bytes(order.model)
                        await self._say(Described(model=order.model, graphs=described, weight_bytes=weights))
                case MeasureProfile() as order:
                    await self._measure(order)
                case LoadStages() as order:
                    await self._load(order)
                case EvictStages() as order:
                    await self._evict(order)
                case ForgetModel() as order:
                    await self._forget(order)
                case RunTask() as order:
                    if n := _is_encode(order) and self._fates.take("together"):
                        orders = [order, *[await self._orders.get() for _ in range(int(n) - 1)]]
                        await self._encode_together([each for each in orders if isinstance(each, RunTask)])
                        continue
                    with contextlib.suppress(Ended):
                        await self._run(order)

    async def _encode_together(self, orders: list[RunTask]) -> None:
        """All begin before one ends, and what they make is numeric. Each meets a fate of its own."""
        stage = "text_encoder"
        assert [order.joins for order in orders[1:]] == [orders[0].task_id] * (len(orders) - 1)
        for order in orders:
            started = StageStarted(task_id=order.task_id, stage=stage, started_at_s=time.monotonic())
            await self._say(started)
        fates = [self._fates.take(stage) or "" for _ in orders]
        if "hold" in fates:
            await self._hold()
        for order, fate in zip(orders, fates, strict=True):
            if order.task_id in self._cancelled:
                await self._say(TaskCancelled(task_id=order.task_id, step=0))
                continue
            if fate.startswith("fail:"):
                with contextlib.suppress(Ended):
                    await self._fail(order, stage, FailureKind(fate.removeprefix("fail:")), "as it says")
                continue
            now_s = time.monotonic()
            await self._say(
                StageDone(task_id=order.task_id, stage=stage, started_at_s=now_s - 0.01, ended_at_s=now_s)
            )
            output = self._store.put(encoded_of(order))
            await self._say(TaskDone(task_id=order.task_id, output=output, exactness=Exactness.NUMERIC))

    async def _measure(self, order: MeasureProfile) -> None:
        fate = self._fates.take(f"measure:{self._id}") or self._fates.take("measure")
        await self._say(ProfileProgress(model=order.model, text="text_encoder: measured so far"))
        if fate == "die":
            raise Died
        if fate == "hold":
            await self._hold()
        if fate == "fail":
            await self._say(ProfileFailed(model=order.model, reason="no such shape"))
            return
        found = msgspec.to_builtins(measurements(order)) | {"kernels": KERNELS}
        if fate == "lie":
            found["measured"][0]["seconds"] = -1.0
        if fate == "nonsense":
            found = {"measured": 7}
        await self._say(ProfileMeasured(model=order.model, profile=found))

    async def _load(self, order: LoadStages) -> None:
        for stage in order.stages:
            if fate := self._fates.take(f"load:{stage}", order.model):
                if fate == "die":
                    raise Died
                if fate == "hold":
                    await self._hold()
                if fate in ("hold", "pass"):
                    continue
                await self._say(LoadFailed(model=order.model, stages=order.stages, reason="no weights"))
                return
        self._held |= {(order.model, stage) for stage in order.stages}
        await self._say(
            StagesLoaded(model=order.model, stages=order.stages, load_s=0.01, resident_bytes=1000)
        )

    async def _evict(self, order: EvictStages) -> None:
        self._held -= {(order.model, stage) for stage in order.stages}
        n_bytes = 333 * len(self._held)
        await self._say(StagesEvicted(model=order.model, stages=order.stages, resident_bytes=n_bytes))

    async def _forget(self, order: ForgetModel) -> None:
        fate = self._fates.take("forget")
        if fate == "die":
            raise Died
        if fate == "hold":
            await self._hold()
        self._held = {key for key in self._held if key[0] != order.model}
        await self._say(ModelForgotten(model=order.model, resident_bytes=333 * len(self._held)))

    async def _run(self, order: RunTask) -> None:
        warm_up = order.task_id.startswith("warm-up")
        skip = lie = False
        output: Handle | None = None
        exactness = Exactness.BITWISE
        if missing := {(order.model, stage) for stage in order.stages} - self._held:
            await self._fail(order, order.stages[0], FailureKind.INTERNAL, f"{missing} is not resident")
        first = await self._received(order, warm_up)
        for stage in order.stages:
            if order.task_id in self._cancelled:
                await self._say(TaskCancelled(task_id=order.task_id, step=0))
                return
            fate = self._fates.take(f"warm:{stage}" if warm_up else stage, order.model) or ""
            skip, lie = skip or fate == "skip", lie or fate == "lie"
            if lie:
                await self._lie(order, stage)
            started_s = time.monotonic()
            if not skip:
                await self._say(StageStarted(task_id=order.task_id, stage=stage, started_at_s=started_s))
            if stage == "denoise" and fate != "die" and not skip:
                await self._step(order, first + 1)
            if fate == "write+die":
                self._store.put(b"untold", task_id=order.task_id)
            if fate in ("die", "step+die", "write+die"):
                raise Died
            if fate == "silent":
                self._silent = True
            if fate in ("hang", "silent"):
                await asyncio.Event().wait()
            if fate == "hold":
                await self._hold()
            if order.task_id in self._cancelled or fate == "give_up":
                await self._say(TaskCancelled(task_id=order.task_id, step=first + 1))
                return
            if fate.startswith("fail:"):
                await self._fail(order, stage, FailureKind(fate.removeprefix("fail:")), "as the script says")
            if stage == "denoise" and not skip:
                await self._rest_of_loop(order, first + 1, fate)
            if fate == "no_file":
                output = Handle(node=self._node, name="0" * 32, n_bytes=3)
            if fate == "others_file":
                output = order.handoff
            if fate == "numeric":
                exactness = Exactness.NUMERIC
            if not skip:
                keep = stage == order.keep_after and fate != "no_room"
                await self._say(
                    StageDone(
                        task_id=order.task_id,
                        stage=stage,
                        started_at_s=started_s,
                        ended_at_s=started_s + 0.01,
                        output=self._store.put(encoded_of(order)) if keep else None,
                        exactness=exactness,
                    )
                )
        if fate == "end+hang":
            await asyncio.Event().wait()
        if output is None:
            last = order.stages[-1]
            data = {"text_encoder": encoded_of(order), "denoise": b"latents"}
            try:
                output = self._store.put(data.get(last, picture_for(order)))
            except StoreFull as error:
                await self._fail(order, last, FailureKind.STORE_FULL, str(error))
        if fate == "end+hold":
            self._later.append(asyncio.create_task(self._finish(order, output)))
            return
        for _ in range(2 if lie else 1):
            await self._say(TaskDone(task_id=order.task_id, output=output, exactness=exactness))

    async def _received(self, order: RunTask, warm_up: bool) -> int:
        """The step at which its loop goes on. What it was sent must be there, and its own."""
        try:
            handoff = None if order.handoff is None else self._store.get(order.handoff)
            checkpoint = None if order.checkpoint is None else self._store.get(order.checkpoint)
        except HandoffLost as error:
            await self._fail(order, order.stages[0], FailureKind.HANDOFF_LOST, str(error))
        wrong = order.stages[0] == "denoise" and not warm_up and handoff != encoded_of(order)
        step = 0 if checkpoint is None else int(checkpoint.split()[0])
        wrong |= checkpoint is not None and (
            checkpoint != checkpoint_of(order, step) or order.stages[0] != "denoise"
        )
        if wrong:
            await self._fail(order, order.stages[0], FailureKind.INTERNAL, "began with another job's file")
        return step

    async def _rest_of_loop(self, order: RunTask, step: int, fate: str) -> None:
        """Behind the first live step: checkpoints and pauses at each boundary before the last."""
        steps = order.generation.num_inference_steps
        while step < steps:
            if order.task_id in self._pausing or fate == "unasked":
                saved = self._store.put(checkpoint_of(order, step))
                await self._say(TaskPaused(task_id=order.task_id, step=step, checkpoint=saved))
                raise Ended
            if order.checkpoint_every and step % order.checkpoint_every == 0:
                await self._save(order, step, fate)
            step += 1
            await self._step(order, step)

    async def _save(self, order: RunTask, step: int, fate: str) -> None:
        handle: Handle | None = self._store.put(checkpoint_of(order, step))
        if fate == "no_room" and handle is not None:
            self._store.free(handle)
            handle = None
        if fate == "lost_checkpoint" and handle is not None:
            self._store.free(handle)
        if fate == "others_checkpoint" and handle is not None:
            self._store.free(handle)
            handle = order.handoff
        kept = Exactness.NUMERIC if fate == "numeric+die" else Exactness.BITWISE
        await self._say(CheckpointSaved(task_id=order.task_id, step=step, checkpoint=handle, exactness=kept))
        if fate in ("checkpoint+die", "numeric+die", "lost_checkpoint", "others_checkpoint"):
            raise Died
        if fate == "checkpoint+hang":
            await asyncio.Event().wait()

    async def _finish(self, order: RunTask, output: Handle) -> None:
        await self._release.wait()
        await self._say(TaskDone(task_id=order.task_id, output=output))

    async def _step(self, order: RunTask, step: int) -> None:
        steps = order.generation.num_inference_steps
        await self._say(StepDone(task_id=order.task_id, step=step, steps=steps, done_at_s=time.monotonic()))

    async def _hold(self) -> None:
        """Until released or until some task is cancelled or is to pause."""
        waits = [asyncio.create_task(self._release.wait()), asyncio.create_task(self._cancels.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._cancels.clear()

    async def _fail(self, order: RunTask, stage: str, kind: FailureKind, reason: str) -> NoReturn:
        await self._say(TaskFailed(task_id=order.task_id, stage=stage, kind=kind, reason=reason))
        raise Ended

    async def _lie(self, order: RunTask, stage: str) -> None:
        await self._socket._socket.send(b"\xc1 no message at all")
        await self._socket._socket.send(b"\x81\xa4type\xa7Nothing")
        stray = self._store.put(b"of nobody")
        now_s = time.monotonic()
        for message in (
            TaskDone(task_id="task-unknown", output=stray),
            TaskDone(task_id="task-unknown", output=Handle(node=self._node, name="../lock", n_bytes=1)),
            TaskFailed(task_id="task-unknown", stage=stage, kind=FailureKind.INTERNAL, reason="a lie"),
            TaskCancelled(task_id="task-unknown", step=3),
            StageStarted(task_id=order.task_id, stage="no_such_stage", started_at_s=now_s),
            StageDone(task_id=order.task_id, stage="no_such_stage", started_at_s=now_s, ended_at_s=now_s),
            StepDone(task_id=order.task_id, step=10**9, steps=1, done_at_s=now_s),
            CheckpointSaved(task_id=order.task_id, step=10**9, checkpoint=self._store.put(b"too far")),
            CheckpointSaved(task_id="task-unknown", step=1, checkpoint=self._store.put(b"of nobody")),
            TaskPaused(task_id="task-unknown", step=1, checkpoint=self._store.put(b"of nobody")),
            StageDone(
                task_id=order.task_id,
                stage="no_such_stage",
                started_at_s=now_s,
                ended_at_s=now_s,
                output=self._store.put(b"of no stage"),
            ),
            StageStarted(task_id=order.task_id, stage=stage, started_at_s=now_s),
            StageStarted(task_id=order.task_id, stage=stage, started_at_s=now_s),
            Described(model="another", graphs={}),
            StagesLoaded(model="another", stages=("x",), load_s=0.0, resident_bytes=5),
        ):
            await self._say(message)


def _is_encode(order: RunTask) -> bool:
    return order.stages == ("text_encoder",) and not order.task_id.startswith("warm-up")


def main() -> None:
    # as a real worker does it: nothing outlives the gateway
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    parser = argparse.ArgumentParser()
    for flag in ("--worker-id", "--device", "--threads", "--endpoint", "--capacity-bytes"):
        parser.add_argument(flag)
    parser.add_argument("--handoff", type=Path)
    parser.add_argument("--fates", type=Path)
    flags = parser.parse_args()

    async def live() -> None:
        worker = ScriptedWorker(
            flags.worker_id,
            endpoint=flags.endpoint,
            node=node_name(),
            store=HandoffStore(flags.handoff, node=node_name(), capacity_bytes=int(flags.capacity_bytes)),
            fates=FolderFates(flags.fates),
            release=asyncio.Event(),
            heard=[],
        )
        await worker.run()

    with contextlib.suppress(Died):
        asyncio.run(live())
        return
    os._exit(9)


if __name__ == "__main__":
    main()
