"""Scripted workers in this process, and an engine that tells a test what it sends and hears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from gateway.job import Job
from gateway.loop import Engine
from tests.gateway.fates import Fates
from tests.gateway.scripted import Died, ScriptedWorker
from wire.handoff import HandoffStore
from wire.to_gateway import ToGateway
from wire.to_worker import CancelTask, PauseTask, RunTask, ToWorker


class ScriptedEngine(Engine):
    """`sent` numbers the tasks in the order in which they were sent, `n_heard` counts each worker's words."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.sent: dict[str, int] = {}
        self.n_heard = {worker.worker_id: 0 for worker in self.fleet}
        self.after_deliver: Callable[[], None] = lambda: None

    def send(self, worker_id: str, message: ToWorker) -> None:
        if isinstance(message, RunTask):
            self.sent[message.task_id] = len(self.sent)
        super().send(worker_id, message)

    def deliver(self, job: Job) -> None:
        super().deliver(job)
        self.after_deliver()

    def _hear(self, worker_id: str, message: ToGateway) -> None:
        super()._hear(worker_id, message)
        if worker_id in self.n_heard:
            self.n_heard[worker_id] += 1


class ScriptedFleet:
    """Scripted workers in this process, restarted as a supervisor would. Speaks to the engine for both."""

    def __init__(
        self, engine: ScriptedEngine, workers: Sequence[str], *, endpoint: str, store: HandoffStore
    ) -> None:
        self.fates = Fates()
        self.release = asyncio.Event()
        self.heard: dict[str, list[ToWorker]] = {worker: [] for worker in workers}
        self.n_deaths = dict.fromkeys(workers, 0)
        self._engine = engine
        self._endpoint = endpoint
        self._store = store
        self._lives: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self.heard:
                group.create_task(self._keep(worker))

    def kill(self, worker_id: str) -> None:
        self._lives[worker_id].cancel()

    def proved(self, worker_id: str) -> None:
        pass

    def cancels(self) -> list[str]:
        """Task ids that some worker was told to cancel."""
        return [m.task_id for heard in self.heard.values() for m in heard if isinstance(m, CancelTask)]

    def pauses(self) -> list[str]:
        """Task ids that some worker was told to pause."""
        return [m.task_id for heard in self.heard.values() for m in heard if isinstance(m, PauseTask)]

    def tasks(self) -> list[RunTask]:
        """Tasks of jobs (not warm-ups) that workers got, in the order in which they were sent."""
        got = [
            message
            for heard in self.heard.values()
            for message in heard
            if isinstance(message, RunTask) and not message.task_id.startswith("warm-up")
        ]
        return sorted(got, key=lambda task: self._engine.sent[task.task_id])

    async def _keep(self, worker_id: str) -> None:
        while True:
            self._engine.n_heard[worker_id] = 0
            self._engine.worker_started(worker_id)
            worker = ScriptedWorker(
                worker_id,
                endpoint=self._endpoint,
                store=self._store,
                fates=self.fates,
                release=self.release,
                heard=self.heard[worker_id],
            )
            life = self._lives[worker_id] = asyncio.create_task(worker.run())
            try:
                await asyncio.wait((life,))
            finally:
                life.cancel()
            if not life.cancelled() and life.exception() is None:
                return
            if not life.cancelled() and not isinstance(life.exception(), Died):
                life.result()
            # last words are heard before the death is noticed, or what a test sees would be a matter of luck
            end_s = time.monotonic() + 1.0
            while not life.cancelled() and self._engine.n_heard[worker_id] < worker.n_said:
                assert time.monotonic() < end_s
                await asyncio.sleep(0.001)
            self.n_deaths[worker_id] += 1
            self._engine.worker_exited(worker_id, "killed by SIGKILL")
