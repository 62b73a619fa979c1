"""A worker process is killed inside its loop; another process goes on from its last checkpoint."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pipelines.catalogue import to_entry
from pipelines.families import FAMILIES
from tests.families.cases import Case, made_whole, sampled
from tests.worker.forking_worker import Order
from wire.handle import Handle
from wire.handoff import HandoffStore
from wire.to_gateway import CheckpointSaved, StageDone, StepDone, TaskDone, TaskFailed, ToGateway
from wire.to_worker import LoadStages, RunTask
from worker.device import DeviceLoop
from worker.packing import unpack

CHECKOUT = Path(__file__).parents[2]
Told = StageDone | CheckpointSaved | TaskDone | TaskFailed


@pytest.fixture(scope="module")
def forking() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker.forking_worker"],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


def _killed_at(forking: subprocess.Popen[bytes], order: Order) -> tuple[Handle, Handle]:
    """Handles of the kept encode output and of the last checkpoint, when the worker is dead."""
    assert forking.stdin is not None
    assert forking.stdout is not None
    forking.stdin.write(msgspec.json.encode(order) + b"\n")
    forking.stdin.flush()
    pid = int(forking.stdout.readline())
    kept: Handle | None = None
    while True:
        told = msgspec.json.decode(forking.stdout.readline(), type=Told)
        match told:
            case StageDone(output=Handle() as output):
                kept = output
            case CheckpointSaved(step=order.hang_at, checkpoint=Handle() as checkpoint):
                os.kill(pid, signal.SIGKILL)
                assert kept is not None
                return kept, checkpoint
            case TaskFailed() | TaskDone():
                raise AssertionError(told)
            case _:
                continue


def test_another_process_goes_on(case: Case, forking: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """With the model's own sampler and one more of its family, from family to family another."""
    samplers = case.model.family_table.samplers
    for sampler in (None, samplers[list(FAMILIES).index(case.model.family) % len(samplers)]):
        model = msgspec.structs.replace(case.model, sampler=sampler)
        with sampled(case, sampler):
            expected = made_whole(case, case.generation)[0]
        latents = _killed_and_continued(case, to_entry(model), forking, tmp_path)
        assert torch.equal(latents, expected), sampler


def _killed_and_continued(
    case: Case, entry: dict[str, Any], forking: subprocess.Popen[bytes], folder: Path
) -> torch.Tensor:
    """Latents behind a loop of which another process made the first two steps, and was killed."""
    encoders, loop_stage = case.stages(case.generation)[:-2], case.loop_stage
    assert case.stages(case.generation)[-2] == loop_stage
    task = RunTask(
        task_id="first",
        job_id="job",
        model="tested",
        stages=(*encoders, loop_stage),
        generation=case.generation,
        keep_after=encoders[-1],
        checkpoint_every=1,
    )
    kept, checkpoint = _killed_at(
        forking, Order(entry=entry, stages=task.stages, task=task, folder=str(folder), hang_at=2)
    )

    said: queue.Queue[ToGateway] = queue.Queue()
    store = HandoffStore(folder, node="here", capacity_bytes=100_000_000)
    device_loop = DeviceLoop(torch.device("cpu"), store, said.put)
    device_loop.submit(LoadStages(model="tested", entry=entry, stages=(loop_stage,)))
    again = RunTask(
        task_id="second",
        job_id="job",
        model="tested",
        stages=(loop_stage,),
        generation=case.generation,
        handoff=kept,
        checkpoint=checkpoint,
    )
    device_loop.submit(again)
    thread = threading.Thread(target=device_loop.run)
    thread.start()
    steps = []
    while not isinstance(message := said.get(timeout=60), TaskDone | TaskFailed):
        if isinstance(message, StepDone):
            steps.append(message.step)
    device_loop.stop()
    thread.join()
    assert isinstance(message, TaskDone), message
    # steps 1 and 2 were not made again
    assert steps == [3, 4]
    latents: torch.Tensor = unpack(store.get(message.output)).values["latents"]
    return latents
