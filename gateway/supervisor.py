"""Worker processes: starts them, sees them end, starts them again, kills them when told. No messages here.

A worker is in a session of its own, so that Ctrl-C reaches the gateway alone, which then drains; it dies with
its parent by itself (a parent-death signal that the worker asks for).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gateway.config import WorkerSpec
from gateway.worker_output import WorkerOutput

log = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parents[1]
BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

Command = Callable[[WorkerSpec], Sequence[str]]


class Listener(Protocol):
    """Who is told. Calls come from the event loop and must not raise."""

    def worker_started(self, worker_id: str) -> None: ...

    def worker_exited(self, worker_id: str, reason: str) -> None: ...

    def worker_given_up(self, worker_id: str, reason: str) -> None: ...


def worker_command(
    *,
    endpoint: str,
    handoff: Path,
    capacity_bytes: int,
    host_weights: Path | None = None,
    host_weights_bytes: int = 0,
    memory_bytes: int | None = None,
    kernels: str = "auto",
) -> Command:
    """How a real worker is started. A GPU worker sees its GPU only, as cuda:0.

    `host_weights`: where weights are kept for all workers, None for nowhere. `memory_bytes`: bound of the
    weights of one, None for none. `kernels`: as in `GatewayConfig`.
    """
    weights: tuple[str, ...] = ()
    if host_weights is not None:
        weights += ("--host-weights", str(host_weights), "--host-weights-bytes", str(host_weights_bytes))
    if memory_bytes is not None:
        weights += ("--memory-bytes", str(memory_bytes))

    def command(spec: WorkerSpec) -> Sequence[str]:
        return (
            *(sys.executable, "-m", "worker"),
            *("--worker-id", spec.worker_id),
            *("--device", "cuda:0" if spec.device.startswith("cuda") else spec.device),
            *("--threads", str(spec.threads)),
            *("--endpoint", endpoint),
            *("--handoff", str(handoff)),
            *("--capacity-bytes", str(capacity_bytes)),
            *("--kernels", kernels),
            *weights,
        )

    return command


def worker_environment(spec: WorkerSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: its threads, and only its own GPU (none for a CPU worker).

    Idle OpenMP threads sleep unless the operator said otherwise: where workers share cores, threads that spin
    between parallel regions take the cores from the workers that compute. Diffusers' warnings show the end of
    a prompt that is too long for a text encoder, and prompts do not belong in the log.
    """
    gpu = spec.device.partition(":")[2] if spec.device.startswith("cuda") else ""
    visible = inherited.get("CUDA_VISIBLE_DEVICES")
    if gpu and visible:
        # our indices count within what the operator left visible
        named = visible.split(",")
        gpu = named[int(gpu)] if int(gpu) < len(named) else gpu
    threads = dict.fromkeys(_THREAD_VARIABLES, str(spec.threads))
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "DIFFUSERS_VERBOSITY": "error"}
    return {**defaults, **inherited, **threads, "CUDA_VISIBLE_DEVICES": gpu}


class Supervisor:
    """Owns one process per spec from `run` to `stop`.

    A worker that ends `max_start_failures` times in a row without having proved itself is given up.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        command: Command,
        listener: Listener,
        *,
        max_start_failures: int,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self._specs = specs
        self._command = command
        self._listener = listener
        self._max_start_failures = max_start_failures
        self._backoff_s = backoff_s
        self._processes: dict[str, Process] = {}
        self._failures = dict.fromkeys((spec.worker_id for spec in specs), 0)
        self._n_restarts = dict.fromkeys((spec.worker_id for spec in specs), 0)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Keep the workers running until `stop`. Cancellation kills and reaps them all."""
        async with asyncio.TaskGroup() as group:
            for spec in self._specs:
                group.create_task(self._keep(spec), name=f"keep {spec.worker_id}")

    def proved(self, worker_id: str) -> None:
        """The worker has done something right; its earlier failures are forgotten."""
        self._failures[worker_id] = 0

    def kill(self, worker_id: str) -> None:
        """SIGKILL; the exit is reported like any other. Harmless for a worker that is gone."""
        if process := self._processes.get(worker_id):
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def stop(self, grace_s: float) -> None:
        """Let workers leave by themselves for `grace_s`, then SIGTERM, after the same time SIGKILL.

        Returns when all processes have ended. Cancellation leaves them to `run`'s.
        """
        self._stopping.set()
        for last_word in (signal.SIGTERM, signal.SIGKILL):
            if not await self._ended(grace_s):
                for worker_id, process in self._processes.items():
                    log.warning("%s has not left, sending %s", worker_id, last_word.name)
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(last_word)
        await self._ended(None)

    def statistics(self) -> dict[str, int]:
        """Restarts per worker."""
        return dict(self._n_restarts)

    async def _ended(self, within_s: float | None) -> bool:
        waits = [asyncio.ensure_future(process.wait()) for process in self._processes.values()]
        if not waits:
            return True
        _, pending = await asyncio.wait(waits, timeout=within_s)
        for wait in pending:
            wait.cancel()
        return not pending

    async def _keep(self, spec: WorkerSpec) -> None:
        worker_id = spec.worker_id
        while not self._stopping.is_set():
            self._listener.worker_started(worker_id)
            reason = await self._live(spec)
            if self._stopping.is_set():
                return
            self._failures[worker_id] += 1
            n_failures = self._failures[worker_id]
            self._listener.worker_exited(worker_id, reason)
            if n_failures >= self._max_start_failures:
                self._listener.worker_given_up(worker_id, reason)
                return
            self._n_restarts[worker_id] += 1
            delay_s = self._backoff_s[min(n_failures, len(self._backoff_s)) - 1]
            log.info("%s is started again in %g s: end %d in a row", worker_id, delay_s, n_failures)
            await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _live(self, spec: WorkerSpec) -> str:
        """One process from its start to its end; returns how it ended."""
        output = WorkerOutput(spec.worker_id)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(spec),
                stdin=DEVNULL,
                stdout=output.fd,
                stderr=output.fd,
                cwd=CHECKOUT,
                env=worker_environment(spec, os.environ),
                start_new_session=True,
            )
        except OSError as error:
            return f"could not be started: {error.strerror}"
        finally:
            output.close()
        self._processes[spec.worker_id] = process
        if self._stopping.is_set():
            # `stop` came while it was being made, did not see it, and has nobody told it to leave
            process.kill()
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        finally:
            del self._processes[spec.worker_id]
        await output.ended()
        return f"exit code {code}" if code >= 0 else f"killed by {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
