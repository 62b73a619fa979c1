"""A simulated fleet as a policy meets it: observations, and effects that are checked and carried out.

Decides nothing. An effect that does not fit what the planner was shown is an error of the policy, and ends
the simulation with `EffectRefused`; a task or a load that does not fit in memory is an outcome.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.arrivals import Arrival
from bench.costs import Costs
from bench.simulate.accounts import Accounts
from bench.simulate.book import Book
from bench.simulate.clock import Clock
from bench.simulate.config import EffectRefused, FleetConfig
from bench.simulate.parts import Device, Job, Loading, Outcome, Task
from bench.simulate.tasks import Tasks
from bench.simulate.workers import Workers
from planner.types import Degrade, Effect, Evict, Load, Observation, Pause, Reject, Run, StageKey, WakeAt


class Fleet:
    """Costs are exact unless the configuration says otherwise."""

    def __init__(self, costs: Costs, config: FleetConfig, arrivals: Sequence[Arrival]) -> None:
        self.costs = costs
        self.config = config
        self.clock = Clock(config.starts_s)
        self.accounts = Accounts(costs.device)
        self.book = Book(self.clock, costs, arrivals, drop_if_late=config.drop_if_late)
        self.workers = Workers(self.clock, costs, config, self.accounts)
        self.n_pauses = 0
        self._models = costs.views
        self._n_tasks = 0
        self._tasks = Tasks(
            self.clock, costs, config, book=self.book, workers=self.workers, accounts=self.accounts
        )

    def observation(self) -> Observation:
        """As of now. Views are made anew only for what has changed; the samples are told once."""
        self._tasks.tell_steps()
        return Observation(
            self.clock.now_s,
            tuple(self.book.views.values()),
            tuple(self.workers.views.values()),
            self._models,
            self.accounts.take_samples(),
        )

    def carry_out(self, effect: Effect) -> None:
        """Raises `EffectRefused`."""
        match effect:
            case Run():
                self._run(effect)
            case Pause():
                self._pause(effect)
            case Load():
                self._load(effect)
            case Evict():
                self._evict(effect)
            case Reject():
                job = self._waiting(effect.job, effect)
                if job.view.started and not job.view.drop_if_late:
                    raise EffectRefused(f"{effect}: something of it has run already")
                self.book.end(job, Outcome.REJECTED)
            case Degrade():
                job = self._waiting(effect.job, effect)
                least = job.view.steps if job.view.least_steps is None else job.view.least_steps
                if not max(least, job.view.steps_done + 1) <= effect.steps < job.view.steps:
                    raise EffectRefused(f"{effect}: it agreed to {least} of {job.view.steps} steps")
                self.book.shorten(job, effect.steps)
            case WakeAt():
                if effect.at_s <= self.clock.now_s:
                    raise EffectRefused(f"{effect}: due already at {self.clock.now_s}, a busy loop")
                self.clock.wake_at(effect.at_s)

    def _run(self, effect: Run) -> None:
        if effect.joins is not None:
            raise EffectRefused(f"{effect}: a simulated loop is in lockstep, none can join it")
        if not effect.jobs or not effect.stages or len(set(effect.jobs)) != len(effect.jobs):
            raise EffectRefused(f"{effect}: jobs or stages are missing or named twice")
        jobs = tuple(self._waiting(job_id, effect) for job_id in effect.jobs)
        first = jobs[0].view
        for job in jobs:
            _check_job(job, first.job_id, effect)
            view = job.view
            same = (view.model, view.shape, view.steps, view.steps_done, view.batch_key)
            if same != (first.model, first.shape, first.steps, first.steps_done, first.batch_key):
                raise EffectRefused(f"{effect}: {view.job_id} cannot be in step with {first.job_id}")
        costs = self.costs.models[first.model]
        loop = costs.view.loop_stage
        if effect.degree != len(set(effect.workers)) or effect.degree != len(effect.workers):
            raise EffectRefused(f"{effect}: not {effect.degree} different workers")
        if effect.degree > 1 and loop not in effect.stages:
            raise EffectRefused(f"{effect}: only a loop runs on several workers")
        devices = [self._device(worker, effect) for worker in effect.workers]
        for device in devices:
            stages = effect.stages if device is devices[0] else (loop,)
            _check_worker(device, devices[0].node, {(first.model, stage) for stage in stages}, effect)
        self._n_tasks += 1
        self._tasks.start(
            Task(
                task_id=f"task-{self._n_tasks}",
                jobs=jobs,
                costs=costs,
                stages=effect.stages,
                devices=devices,
                asked_s=self.clock.now_s,
                steps=first.steps,
                steps_before=first.steps_done,
                told_steps=first.steps_done,
                told_s=self.clock.now_s,
            )
        )

    def _pause(self, effect: Pause) -> None:
        task = self._device(effect.worker, effect).task
        if task is None or effect.job not in {job.view.job_id for job in task.jobs}:
            raise EffectRefused(f"{effect}: it has no such task")
        if len(task.jobs) > 1:
            raise EffectRefused(f"{effect}: a simulated batch is in lockstep, none can leave it")
        if not task.is_loop_ahead or task.pausing:
            raise EffectRefused(f"{effect}: it cannot be paused, or is being paused")
        self.n_pauses += 1
        self._tasks.pause(task)

    def _load(self, effect: Load) -> None:
        device = self._device(effect.worker, effect)
        keys = frozenset((effect.model, stage) for stage in effect.stages)
        if not keys or not keys <= self.costs.stages:
            raise EffectRefused(f"{effect}: there are no such stages")
        if keys & (device.view.resident | device.view.loading | device.view.failed):
            raise EffectRefused(f"{effect}: it has, loads or cannot hold some of them")
        load_s = self.costs.models[effect.model].view.load_s
        self.workers.queue(device, Loading(keys, sum(load_s[stage] for stage in effect.stages)))

    def _evict(self, effect: Evict) -> None:
        device = self._device(effect.worker, effect)
        keys = frozenset((effect.model, stage) for stage in effect.stages)
        if not keys or not keys <= device.view.resident:
            raise EffectRefused(f"{effect}: it has only {sorted(device.view.resident)}")
        if (task := device.task) is not None and keys & _needed(task, device):
            raise EffectRefused(f"{effect}: its task needs them")
        self.workers.evict(device, keys)

    def _waiting(self, job_id: str, effect: Effect) -> Job:
        if (job := self.book.waiting(job_id)) is None:
            raise EffectRefused(f"{effect}: {job_id} does not wait")
        return job

    def _device(self, worker_id: str, effect: Effect) -> Device:
        if worker_id not in self.workers.live:
            raise EffectRefused(f"{effect}: there is no {worker_id}")
        return self.workers.live[worker_id]


def _check_job(job: Job, first: str, effect: Run) -> None:
    view = job.view
    if view.job_id != first and not view.batch_key:
        raise EffectRefused(f"{effect}: {view.job_id} shares no task")
    if view.pending[: len(effect.stages)] != effect.stages:
        raise EffectRefused(f"{effect}: {view.job_id} still needs {view.pending}")


def _check_worker(device: Device, node: str, needed: set[StageKey], effect: Run) -> None:
    if device.node != node or effect.degree not in device.view.degrees:
        raise EffectRefused(f"{effect}: {device.worker_id} cannot be in that gang")
    if device.view.task is not None:
        raise EffectRefused(f"{effect}: {device.worker_id} has a task")
    if not needed <= device.view.resident:
        raise EffectRefused(f"{effect}: {device.worker_id} has only {sorted(device.view.resident)}")


def _needed(task: Task, device: Device) -> set[StageKey]:
    if device is not task.devices[0]:
        return {(task.model, task.costs.view.loop_stage)}
    return {(task.model, stage) for stage in task.stages[task.place or 0 :]}
