"""When a worker counts as silent or stuck, by a clock that the test sets."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config import GatewayConfig, WorkerSpec
from gateway.decisions import Planner
from gateway.fleet import Fleet, Worker
from gateway.tasks import Task
from gateway.watch import overdue
from planner.types import Observation, Shape, StageSample
from tests.gateway.toy import NODE, graph
from wire.codec import PROTOCOL_VERSION
from wire.to_gateway import Heartbeat, Hello, Phase

SHAPE = Shape(128, 128)
CONFIG = GatewayConfig(
    models=("toy",),
    workers=(WorkerSpec(worker_id="cpu-0", device="cpu", threads=1),),
    heartbeat_timeout_s=15.0,
    hello_timeout_s=100.0,
    stall_timeout_s=10.0,
    warm_up_timeout_s=600.0,
    load_timeout_s=900.0,
)
HELLO = Hello(
    protocol_version=PROTOCOL_VERSION,
    worker="cpu-0",
    pid=1,
    node=NODE,
    device="cpu",
    device_name="cpu",
    threads=1,
)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet({"cpu-0": "cpu"})


@pytest.fixture
def worker(fleet: Fleet) -> Worker:
    worker = fleet["cpu-0"]
    worker.started(0.0)
    return worker


def planner(step_s: float | None) -> Planner:
    planner = Planner(CONFIG)
    planner.join(graph(), {})
    samples = (
        (
            StageSample(
                model="toy",
                stage="denoise",
                shape=SHAPE,
                steps=4,
                seconds=4 * step_s,
                ended_s=0.0,
                device="cpu, threads 1",
            ),
        )
        if step_s is not None
        else ()
    )
    planner.decide(Observation(now_s=0.0, jobs=(), workers=(), models=planner.models, finished=samples))
    return planner


def denoise(sent_s: float, job_id: str | None = "job") -> Task:
    return Task(
        task_id="task",
        job_id=job_id,
        model="toy",
        stages=("denoise",),
        shape=SHAPE,
        steps=4,
        sent_s=sent_s,
        moved_at_s=sent_s,
    )


def bound_s(fleet: Fleet, planner: Planner | None = None) -> float:
    """The first whole second at which the worker is overdue."""
    return next(float(s) for s in range(2000) if list(overdue(fleet, planner, CONFIG, float(s))))


def test_a_process_must_say_hello(fleet: Fleet, worker: Worker) -> None:
    assert bound_s(fleet) == 101


def test_a_worker_must_be_heard(fleet: Fleet, worker: Worker) -> None:
    worker.greeted(HELLO, 50.0)
    assert bound_s(fleet) == 66
    worker.heard(60.0)
    assert bound_s(fleet) == 76


@pytest.mark.parametrize(("step_s", "expected"), [(0.1, 11), (4.0, 21), (None, 601)])
def test_a_task_must_get_on(fleet: Fleet, worker: Worker, step_s: float | None, expected: int) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(1000.0)
    worker.batch = [denoise(0.0)]
    assert bound_s(fleet, planner(step_s)) == expected


@pytest.mark.parametrize(("step_s", "expected"), [(0.1, 51), (4.0, 321)])
def test_a_shape_that_never_ran_is_guessed_from_another(
    fleet: Fleet, worker: Worker, step_s: float, expected: int
) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(1000.0)
    worker.batch = [denoise(0.0)]
    worker.batch[0].shape = Shape(256, 256)
    assert bound_s(fleet, planner(step_s)) == expected


def test_a_load_must_end(fleet: Fleet, worker: Worker) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(2000.0)
    worker.beat(Heartbeat(phase=Phase.LOADING, since_s=5.0), 105.0)
    assert bound_s(fleet) == 1001
    # the next one has a bound of its own
    worker.beat(Heartbeat(phase=Phase.LOADING, since_s=0.0), 900.0)
    assert bound_s(fleet) == 1801


def test_a_measurement_must_get_on(fleet: Fleet, worker: Worker) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(2000.0)
    worker.beat(Heartbeat(phase=Phase.MEASURING, since_s=5.0), 105.0)
    worker.batch = [denoise(0.0)]
    # a task behind it is not to blame
    assert bound_s(fleet, planner(0.1)) == 1001
    assert [reason for _, reason in overdue(fleet, None, CONFIG, 1001.0)] == ["nothing was measured in 901 s"]


def test_the_kind_of_a_device_is_its_name_and_on_a_cpu_its_threads(worker: Worker) -> None:
    assert worker.kind == ""
    worker.greeted(HELLO, 0.0)
    assert worker.kind == "cpu, threads 1"
    gpu = msgspec.structs.replace(HELLO, device="cuda:0", device_name="H100", memory_bytes=80)
    worker.greeted(gpu, 0.0)
    assert worker.kind == "H100"
    assert (worker.view().device, worker.view().memory_bytes) == ("H100", 80)
    worker.lost(0.0)
    assert worker.kind == ""


def test_a_warm_up_may_take_long(fleet: Fleet, worker: Worker) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(1000.0)
    worker.batch = [denoise(0.0, job_id=None)]
    assert bound_s(fleet, planner(0.1)) == 601


def test_a_slow_load_is_no_stall(fleet: Fleet, worker: Worker) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(1000.0)
    worker.batch = [denoise(0.0)]
    worker.beat(Heartbeat(phase=Phase.LOADING, since_s=0.0), 1.0)
    assert not list(overdue(fleet, planner(0.1), CONFIG, 500.0))
    worker.beat(Heartbeat(phase=Phase.RUNNING, since_s=0.0), 500.0)
    assert not list(overdue(fleet, planner(0.1), CONFIG, 510.0))
    assert list(overdue(fleet, planner(0.1), CONFIG, 511.0))


def test_a_step_in_a_heartbeat_is_progress(fleet: Fleet, worker: Worker) -> None:
    worker.greeted(HELLO, 0.0)
    worker.heard(1000.0)
    worker.batch = [denoise(0.0)]
    worker.beat(Heartbeat(phase=Phase.RUNNING, since_s=0.0, task_id="task", step=1), 9.0)
    assert not list(overdue(fleet, planner(0.1), CONFIG, 18.0))


def test_the_same_step_in_every_heartbeat_is_none(fleet: Fleet, worker: Worker) -> None:
    """A worker that hangs between a step and its message tells of that step for ever."""
    worker.greeted(HELLO, 0.0)
    worker.heard(1000.0)
    worker.batch = [denoise(0.0)]
    for beat_s in range(1, 12):
        worker.beat(Heartbeat(phase=Phase.RUNNING, since_s=0.0, task_id="task", step=3), float(beat_s))
    assert not list(overdue(fleet, planner(0.1), CONFIG, 11.0))
    assert list(overdue(fleet, planner(0.1), CONFIG, 11.5))


def test_nobody_is_condemned_twice(fleet: Fleet, worker: Worker) -> None:
    worker.condemned = True
    assert not list(overdue(fleet, None, CONFIG, 1e6))
