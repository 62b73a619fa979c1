"""Real processes, of a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from gateway.config import WorkerSpec
from gateway.supervisor import Supervisor, worker_command, worker_environment
from tests.gateway.conftest import until

SPEC = WorkerSpec(worker_id="cpu-0", device="cpu", threads=3)


class Log:
    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def worker_started(self, worker_id: str) -> None:
        self.said.append(("started", worker_id))

    def worker_exited(self, worker_id: str, reason: str) -> None:
        self.said.append(("exited", worker_id, reason))

    def worker_given_up(self, worker_id: str, reason: str) -> None:
        self.said.append(("given up", worker_id, reason))


@contextlib.asynccontextmanager
async def supervised(script: str, log: Log, max_start_failures: int = 3) -> AsyncIterator[Supervisor]:
    def command(spec: WorkerSpec) -> Sequence[str]:
        return ("/bin/sh", "-c", script)

    supervisor = Supervisor([SPEC], command, log, max_start_failures=max_start_failures, backoff_s=(0.001,))
    running = asyncio.create_task(supervisor.run())
    yield supervisor
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def has_said(log: Log, n: int) -> bool:
    return len(log.said) >= n


async def test_a_worker_that_never_comes_up_is_given_up() -> None:
    log = Log()
    async with supervised("exit 3", log):
        await until(lambda: log.said and log.said[-1][0] == "given up")
    ends = [("started", "cpu-0"), ("exited", "cpu-0", "exit code 3")]
    assert log.said == [*ends * 3, ("given up", "cpu-0", "exit code 3")]


async def test_a_worker_that_proved_itself_is_started_for_ever() -> None:
    log = Log()
    async with supervised("exit 3", log, max_start_failures=2) as supervisor:
        for n in range(1, 6):
            supervisor.proved("cpu-0")
            await until(partial(has_said, log, 2 * n))
            supervisor.proved("cpu-0")
        assert all(said[0] != "given up" for said in log.said)
        assert supervisor.statistics()["cpu-0"] >= 3


async def test_a_command_that_is_none_is_reported() -> None:
    log = Log()

    def command(spec: WorkerSpec) -> Sequence[str]:
        return ("/no/such/program",)

    supervisor = Supervisor([SPEC], command, log, max_start_failures=1)
    await asyncio.wait_for(supervisor.run(), 5)
    assert log.said[-1] == ("given up", "cpu-0", "could not be started: No such file or directory")


async def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    log = Log()
    async with supervised(f"echo $$ >> {tmp_path}/pids; exec sleep 100", log) as supervisor:
        pids = tmp_path / "pids"
        await until(pids.exists)
        await until(lambda: pids.read_text().count("\n") == 1)
        supervisor.kill("cpu-0")
        await until(lambda: pids.read_text().count("\n") == 2)
        assert ("exited", "cpu-0", "killed by SIGKILL") in log.said
        await supervisor.stop(0.01)
        assert not any(alive(int(pid)) for pid in pids.read_text().split())


async def test_stop_begins_softly_and_ends_hard(tmp_path: Path) -> None:
    log = Log()
    script = f"trap 'touch {tmp_path}/term' TERM; touch {tmp_path}/up; while :; do sleep 0.01; done"
    async with supervised(script, log) as supervisor:
        await until((tmp_path / "up").exists)
        await supervisor.stop(0.1)
        assert (tmp_path / "term").exists()
        assert log.said == [("started", "cpu-0")]


async def test_a_worker_that_is_being_made_when_it_stops_does_not_stay() -> None:
    supervisor = Supervisor(
        [SPEC], lambda spec: ("/bin/sh", "-c", "exec sleep 100"), Log(), max_start_failures=3
    )
    running = asyncio.create_task(supervisor.run())
    # begins to make the process, and cannot have made it
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.wait_for(supervisor.stop(0.01), 10)
    await asyncio.wait_for(running, 10)


async def test_one_is_given_up_and_the_other_goes_on() -> None:
    log = Log()
    specs = [SPEC, WorkerSpec(worker_id="cpu-1", device="cpu", threads=1)]

    def command(spec: WorkerSpec) -> Sequence[str]:
        return ("/bin/sh", "-c", "exit 3" if spec is SPEC else "exec sleep 100")

    supervisor = Supervisor(specs, command, log, max_start_failures=3, backoff_s=(0.001,))
    running = asyncio.create_task(supervisor.run())
    await until(lambda: ("given up", "cpu-0", "exit code 3") in log.said)
    assert [said for said in log.said if said[1] == "cpu-1"] == [("started", "cpu-1")]
    assert not running.done()
    supervisor.kill("cpu-1")
    await until(lambda: log.said.count(("started", "cpu-1")) == 2)
    await supervisor.stop(0.01)
    await asyncio.wait_for(running, 10)


async def test_it_waits_longer_with_every_failure_until_the_worker_proves_itself() -> None:
    log, waits = Log(), []
    supervisor = Supervisor(
        [SPEC], lambda spec: ("/bin/false",), log, max_start_failures=9, backoff_s=(1.0, 2.0, 3.0)
    )

    async def wait(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 4:
            supervisor.proved("cpu-0")

    supervisor._pause = wait  # type: ignore[method-assign]
    running = asyncio.create_task(supervisor.run())
    await until(lambda: len(waits) >= 6)
    assert waits[:6] == [1.0, 2.0, 3.0, 3.0, 1.0, 2.0]
    await supervisor.stop(0.01)
    await asyncio.wait_for(running, 10)


async def test_a_cancelled_supervisor_leaves_no_process(tmp_path: Path) -> None:
    log = Log()
    async with supervised(f"echo $$ > {tmp_path}/pid; exec sleep 100", log):
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not alive(pid))


async def test_ctrl_c_does_not_reach_workers(tmp_path: Path) -> None:
    log = Log()
    async with supervised(f"echo $$ > {tmp_path}/pid; exec sleep 100", log):
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert signal.SIGINT


def test_what_a_real_worker_is_started_with(tmp_path: Path) -> None:
    command = worker_command(endpoint="ipc:///x", handoff=tmp_path, capacity_bytes=5)
    gpu = WorkerSpec(worker_id="gpu-3", device="cuda:3", threads=2)
    line = " ".join(command(gpu))
    assert "-m worker --worker-id gpu-3 --device cuda:0 --threads 2 --endpoint ipc:///x" in line
    assert line.endswith(f"--handoff {tmp_path} --capacity-bytes 5 --kernels auto")
    assert " --device cpu " in " ".join(command(SPEC))
    bounded = worker_command(
        endpoint="ipc:///x",
        handoff=tmp_path,
        capacity_bytes=5,
        host_weights=tmp_path / "weights",
        host_weights_bytes=7,
        memory_bytes=9,
        kernels="torch",
    )
    weights = f"--host-weights {tmp_path / 'weights'} --host-weights-bytes 7 --memory-bytes 9"
    assert " ".join(bounded(gpu)) == f"{line.replace('auto', 'torch')} {weights}"


@pytest.mark.parametrize(
    ("device", "inherited", "visible"),
    [("cuda:3", None, "3"), ("cuda:1", "4,6", "6"), ("cuda:1", "GPU-a,GPU-b", "GPU-b"), ("cpu", "0,1", "")],
)
def test_a_worker_sees_its_own_gpu_only(device: str, inherited: str | None, visible: str) -> None:
    spec = WorkerSpec(worker_id="w", device=device, threads=2)
    before = {"HOME": "/"} | ({"CUDA_VISIBLE_DEVICES": inherited} if inherited else {})
    environment = worker_environment(spec, before)
    assert environment["CUDA_VISIBLE_DEVICES"] == visible
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["HOME"] == "/"


def test_idle_threads_sleep_unless_the_operator_says_otherwise() -> None:
    assert worker_environment(SPEC, {})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert worker_environment(SPEC, {"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"


def test_diffusers_does_not_print_prompts_unless_the_operator_says_otherwise() -> None:
    assert worker_environment(SPEC, {})["DIFFUSERS_VERBOSITY"] == "error"
    assert worker_environment(SPEC, {"DIFFUSERS_VERBOSITY": "info"})["DIFFUSERS_VERBOSITY"] == "info"


async def test_what_a_worker_prints_comes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with supervised("echo its last words >&2; exit 1", Log(), max_start_failures=1):
        await until(lambda: "its last words" in caplog.messages)
    assert {record.name for record in caplog.records if "words" in record.message} == {"gateway.worker"}
