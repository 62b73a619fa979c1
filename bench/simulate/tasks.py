"""The life of a stage task in a simulation: its gang comes together, its stages run, its loop may be left.

Stages run one after the other. The gang waits while its first member runs what comes before the loop, and
all but the first are free once the loop has ended. A loop has no event per step: when its next boundary is
follows from when it began. It makes at least one step before it can be left.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from random import Random

from bench.costs import Costs
from bench.simulate.accounts import Accounts
from bench.simulate.book import Book
from bench.simulate.clock import Clock
from bench.simulate.config import FleetConfig
from bench.simulate.parts import Device, Job, Outcome, Task
from bench.simulate.views import with_task
from bench.simulate.workers import Workers

_EPSILON = 1e-9


class Tasks:
    """Moves tasks between the workers and the book."""

    def __init__(
        self,
        clock: Clock,
        costs: Costs,
        config: FleetConfig,
        *,
        book: Book,
        workers: Workers,
        accounts: Accounts,
    ) -> None:
        self._clock = clock
        self._costs = costs
        self._config = config
        self._book = book
        self._workers = workers
        self._accounts = accounts
        self._noise = Random(f"noise {config.seed}")
        self._to_tell: list[tuple[float, int, Task]] = []
        self._n_told = 0
        workers.on_turn = self._begin_if_ready
        workers.on_loss = self._lose
        book.on_due = self._drop

    def start(self, task: Task) -> None:
        """It begins when all of its workers have come to it."""
        for job in task.jobs:
            self._book.start(job)
        for device in task.devices:
            self._workers.queue(device, task)
        self._show(task)
        self._begin_if_ready(task)

    def pause(self, task: Task) -> None:
        """Let its one job leave the loop at the next boundary, if there is one before the end."""
        task.pausing = True
        task.jobs[0].n_pauses += 1
        if task.in_loop:
            self._leave_loop(task, least_steps=1)
        self._show(task)

    def tell_steps(self) -> None:
        """Show how far loops have come, for those whose last telling is long enough ago."""
        now_s = self._clock.now_s + _EPSILON
        while self._to_tell and self._to_tell[0][0] <= now_s:
            task = heapq.heappop(self._to_tell)[2]
            if not task.in_loop or not task.devices:
                continue
            n_steps = int((now_s - task.stage_began_s) / task.step_s + _EPSILON)
            n_steps = min(task.steps - task.steps_before, n_steps)
            task.told_steps = task.steps_before + n_steps
            task.told_s = task.stage_began_s + n_steps * task.step_s
            self._show(task)
            later = max(1, math.ceil(self._config.progress_s / task.step_s - _EPSILON))
            self._tell_at(task.told_s + later * task.step_s, task)

    def _begin_if_ready(self, task: Task) -> None:
        if task.place is not None or any(device.queue[0] is not task for device in task.devices):
            return
        if self._is_too_large(task):
            self._clock.at(self._clock.now_s, self._ran_out_of_memory, task, task.version)
            return
        task.place = 0
        task.began_s = self._clock.now_s
        takeover_s = 0.0
        if task.in_loop and task.steps_before:
            takeover_s = self._costs.resume_s
        elif task.stage != task.costs.view.stages[0]:
            is_here = task.jobs[0].last_worker == task.devices[0].worker_id
            takeover_s = 0.0 if is_here else self._costs.handoff_s
        self._accounts.took_over(task, takeover_s)
        self._begin_stage(task, self._clock.now_s + takeover_s)

    def _begin_stage(self, task: Task, at_s: float) -> None:
        noise = self._config.noise
        factor = math.exp(self._noise.gauss(0.0, noise)) if noise else 1.0
        in_loop = task.in_loop
        steps = task.steps - task.steps_before if in_loop else 1
        task.stage_began_s, task.told_s = at_s, self._clock.now_s
        task.stage_s = factor * task.costs.stage_s(
            task.stage,
            task.jobs[0].view.shape,
            steps,
            degree=len(task.devices) if in_loop else 1,
            batch=len(task.jobs),
        )
        self._clock.at(at_s + task.stage_s, self._stage_ended, task, task.version)
        if in_loop:
            task.step_s = task.stage_s / max(1, steps)
            self._tell_at(at_s + task.step_s, task)
            if task.pausing or task.drops:
                self._leave_loop(task, least_steps=1)

    def _stage_ended(self, task: Task, version: int) -> None:
        if version != task.version:
            return
        assert task.place is not None
        self._accounts.stage_ended(task, self._clock.now_s)
        for job in task.jobs:
            job.last_worker = task.devices[0].worker_id
        if task.in_loop:
            task.told_steps = task.steps
            self._release(task, task.devices[1:])
        n_ended, node = task.place + 1, task.devices[0].node
        if n_ended < len(task.stages) and not task.drops:
            task.place = n_ended
            self._begin_stage(task, self._clock.now_s)
            self._show(task)
            return
        self._release(task, task.devices)
        for job in task.jobs:
            pending = job.view.pending[n_ended:]
            if not pending:
                self._book.end(job, Outcome.DONE)
            elif task.drops:
                self._book.end(job, Outcome.DROPPED)
            else:
                done = job.view.steps_done if task.costs.view.loop_stage in pending else task.steps
                self._book.take_back(job, pending, done, node)

    def _leave_loop(self, task: Task, least_steps: int) -> None:
        """At the next boundary behind `least_steps`. A loop without one before its end simply ends."""
        n_steps = math.ceil((self._clock.now_s - task.stage_began_s) / task.step_s - _EPSILON)
        n_steps = max(least_steps, n_steps)
        if n_steps >= task.steps - task.steps_before:
            return
        task.version += 1
        boundary_s = max(self._clock.now_s, task.stage_began_s + n_steps * task.step_s)
        self._clock.at(boundary_s, self._left_loop, (task, n_steps), task.version)

    def _left_loop(self, what: tuple[Task, int], version: int) -> None:
        task, n_steps = what
        if version != task.version:
            return
        task.version += 1
        self._accounts.loop_left(task, self._clock.now_s, n_steps)
        first = task.devices[0]
        self._release(task, task.devices)
        for job in task.jobs:
            job.last_worker = first.worker_id
            if task.drops:
                self._book.end(job, Outcome.DROPPED)
            else:
                pending = job.view.pending[task.place :]
                self._book.take_back(job, pending, task.steps_before + n_steps, first.node)

    def _drop(self, job: Job) -> None:
        """The deadline of a running job that is not to be finished late. A batch goes on to its end."""
        for device in self._workers.live.values():
            task = device.task
            if task is not None and task.jobs == (job,):
                task.drops = True
                if task.in_loop and not task.pausing:
                    self._leave_loop(task, least_steps=0)
                return

    def _lose(self, task: Task, dead: Device) -> None:
        """A loop goes back to its last checkpoint, also from behind it: its own end is not in the store."""
        task.version += 1
        loop = task.costs.view.loop_stage
        n_ended, steps_done = task.place or 0, task.steps_before
        if task.in_loop:
            ran_s = self._clock.now_s - task.stage_began_s
            steps_done = self._kept(task, task.steps_before + max(0, int(ran_s / task.step_s + _EPSILON)))
        elif loop in task.stages[:n_ended]:
            n_ended = task.stages.index(loop)
            steps_done = self._kept(task, task.steps - 1)
        self._accounts.task_lost(task, self._clock.now_s, steps_done - task.steps_before)
        if task.place is not None:
            dead.busy_s += self._clock.now_s - task.began_s
        survivors = [device for device in task.devices if device is not dead]
        task.devices.clear()
        self._release(task, survivors)
        for job in task.jobs:
            job.last_worker = ""
            if task.drops:
                self._book.end(job, Outcome.DROPPED)
                continue
            pending = job.view.pending[n_ended:]
            done = steps_done if loop in pending else job.view.steps_done
            self._book.take_back(job, pending, done, dead.node if n_ended or done else job.view.node)

    def _kept(self, task: Task, steps_done: int) -> int:
        every = self._costs.checkpoint_every
        return max(task.steps_before, steps_done // every * every if every else 0)

    def _release(self, task: Task, devices: Sequence[Device]) -> None:
        """The devices leave the task, which keeps the others."""
        left = list(devices)
        task.devices = [device for device in task.devices if device not in left]
        for device in left:
            self._workers.leave(device, task)

    def _is_too_large(self, task: Task) -> bool:
        """Whether a member would hold more than it can: its weights and the largest peak of its stages."""
        bound = self._costs.memory_bytes
        if bound is None:
            return False
        loop, shape, batch = task.costs.view.loop_stage, task.jobs[0].view.shape, len(task.jobs)
        degree = len(task.devices)
        for device in task.devices:
            stages = task.stages if device is task.devices[0] else (loop,)
            peaks = (
                task.costs.peak_bytes(stage, shape, degree=degree if stage == loop else 1, batch=batch)
                for stage in stages
            )
            if self._workers.weight_bytes(device.view.resident) + max(peaks) > bound:
                return True
        return False

    def _ran_out_of_memory(self, task: Task, version: int) -> None:
        if version != task.version:
            return
        self._release(task, task.devices)
        for job in task.jobs:
            self._book.end(job, Outcome.OUT_OF_MEMORY)

    def _show(self, task: Task) -> None:
        shown = task.view()
        for device in task.devices:
            self._workers.show(device, with_task(device.view, shown))

    def _tell_at(self, at_s: float, task: Task) -> None:
        heapq.heappush(self._to_tell, (at_s, self._n_told, task))
        self._n_told += 1
