"""`python -m bench.instant_worker ...`: a worker without a model, which answers at once.

It speaks the real link and writes real files of the size that the embedded model's have, so that what a
gateway over it costs is the gateway's. Made by `bench.instant_gateway`.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import time
from pathlib import Path

import msgspec

from pipelines.graph import Stage, StageGraph
from wire.codec import PROTOCOL_VERSION
from wire.handle import Handle
from wire.handoff import HandoffStore
from wire.runtime import node_name
from wire.sockets import WorkerSocket
from wire.to_gateway import (
    CheckpointSaved,
    Described,
    Goodbye,
    Heartbeat,
    Hello,
    ModelForgotten,
    Phase,
    StageDone,
    StagesLoaded,
    StageStarted,
    StepDone,
    TaskDone,
)
from wire.to_worker import Describe, ForgetModel, LoadStages, Refused, RunTask, Stop

STAGES = {"text_encoder": "encode", "denoise": "diffuse", "decode": "decode"}
_ENCODED, _CHECKPOINT, _PICTURE = (bytes(n) for n in (60_000, 39_000, 12_000))
_LOOP = "denoise"
_PR_SET_PDEATHSIG = 1


def graph(model: str) -> StageGraph:
    """Three stages, as most families have them."""
    reads = {"text_encoder": ("prompt", "negative_prompt")}
    return StageGraph(
        model=model,
        workflow="text2image",
        pipeline_class="Instant",
        stages=tuple(
            Stage(
                name=name,
                kind=kind,
                blocks=(),
                components=(),
                loaded=(),
                reads=reads.get(name, ()),
                writes=(),
            )
            for name, kind in STAGES.items()
        ),
        output="images",
    )


class InstantWorker:
    """One worker, until it is told to stop. Tasks end in the order in which they come."""

    def __init__(self, worker_id: str, link: WorkerSocket, store: HandoffStore) -> None:
        self._id = worker_id
        self._link = link
        self._store = store

    async def run(self) -> None:
        await self._link.send(
            Hello(
                protocol_version=PROTOCOL_VERSION,
                worker=self._id,
                pid=os.getpid(),
                node=node_name(),
                device="cpu",
                device_name="none",
                threads=1,
            )
        )
        beating = asyncio.create_task(self._beat())
        try:
            await self._answer()
        finally:
            beating.cancel()
        await self._link.send(Goodbye(reason="told to stop"))

    async def _beat(self) -> None:
        while True:
            await self._link.send(Heartbeat(phase=Phase.IDLE, since_s=0.0))
            await asyncio.sleep(1.0)

    async def _answer(self) -> None:
        while True:
            match await self._link.receive():
                case Stop() | Refused():
                    return
                case Describe(model=model):
                    graphs = msgspec.to_builtins({"text": graph(model)})
                    await self._link.send(Described(model=model, graphs=graphs))
                case LoadStages(model=model, stages=stages):
                    loaded = StagesLoaded(model=model, stages=stages, load_s=0.0, resident_bytes=1)
                    await self._link.send(loaded)
                case ForgetModel(model=model):
                    await self._link.send(ModelForgotten(model=model, resident_bytes=0))
                case RunTask() as task:
                    await self._run(task)
                case _:
                    continue

    async def _run(self, task: RunTask) -> None:
        """Says all that a real worker says of a task."""
        for stage in task.stages:
            at_s = time.monotonic()
            await self._link.send(StageStarted(task_id=task.task_id, stage=stage, started_at_s=at_s))
            if stage == _LOOP:
                await self._loop(task)
            output = self._put(task, _ENCODED) if stage == task.keep_after else None
            await self._link.send(
                StageDone(
                    task_id=task.task_id,
                    stage=stage,
                    started_at_s=at_s,
                    ended_at_s=time.monotonic(),
                    output=output,
                )
            )
        is_whole = task.stages[-1] == [*STAGES][-1]
        await self._link.send(
            TaskDone(task_id=task.task_id, output=self._put(task, _PICTURE if is_whole else _ENCODED))
        )

    async def _loop(self, task: RunTask) -> None:
        steps = task.generation.num_inference_steps
        for step in range(1, steps + 1):
            done = StepDone(task_id=task.task_id, step=step, steps=steps, done_at_s=time.monotonic())
            await self._link.send(done)
            if task.checkpoint_every and step < steps and step % task.checkpoint_every == 0:
                saved = self._put(task, _CHECKPOINT)
                await self._link.send(CheckpointSaved(task_id=task.task_id, step=step, checkpoint=saved))

    def _put(self, task: RunTask, data: bytes) -> Handle:
        return self._store.put(data, task_id=task.task_id)


async def _serve(flags: argparse.Namespace) -> None:
    store = HandoffStore(flags.handoff, node=node_name(), capacity_bytes=flags.capacity_bytes)
    with WorkerSocket(flags.endpoint, worker=flags.worker_id) as link:
        await InstantWorker(flags.worker_id, link, store).run()


def main(argv: list[str] | None = None) -> None:
    # as a real worker does it: nothing outlives the gateway
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="instant_worker")
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--handoff", type=Path, required=True)
    parser.add_argument("--capacity-bytes", type=int, required=True)
    asyncio.run(_serve(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
