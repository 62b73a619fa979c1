"""One turn of the engine: show the planner everything, carry out what it says. Never called twice at once."""

from __future__ import annotations

import logging

from gateway.fleet import Worker
from gateway.job import Job
from gateway.lifecycle import State
from gateway.roster import Roster
from gateway.surroundings import Surroundings
from gateway.tasks import Task
from pipelines.catalogue import to_entry
from planner.types import Degrade, Effect, Evict, Load, Observation, Pause, Reject, Run, WakeAt
from wire.to_worker import EvictStages, LoadStages

log = logging.getLogger(__name__)


class Turn:
    """What a turn needs."""

    def __init__(self, roster: Roster, around: Surroundings) -> None:
        self._roster = roster
        self._around = around
        self._book = around.desk.book
        self._fleet = around.fleet

    def take(self, now_s: float) -> None:
        """Warm-ups first: a busy worker would never come to them. Then one decision and its effects."""
        placed = self._roster.placed()
        for worker in self._fleet:
            if worker.is_free:
                next((runs for runs in placed if runs.warm_ups.start(worker)), None)
        held_until_s = [runs.warm_ups.hold_until_s for runs in placed]
        jobs = []
        n_put = self._around.encodes.n_put
        # of each turn's cost this is what grows with the jobs that wait
        for job in self._book:
            if job.state is State.QUEUED and job.looked_up_at != n_put and job.task_id is None:
                self._roster.runs(job.model).kept.skip_encode(job)
                job.looked_up_at = n_put
            if job.hold_until_s > now_s:
                held_until_s.append(job.hold_until_s)
            elif job.pending:
                jobs.append(job.view())
        if later_s := [until_s for until_s in held_until_s if until_s > now_s]:
            self._around.wake_at(min(later_s))
        observation = Observation(
            now_s=now_s,
            jobs=tuple(jobs),
            workers=self._fleet.views(),
            models=self._around.planner.models,
            finished=tuple(sample for runs in placed for sample in runs.take_samples()),
        )
        for effect in self._around.planner.decide(observation):
            if isinstance(effect, WakeAt):
                self._around.wake_at(effect.at_s)
            elif self._is_void(effect):
                log.debug("%r came too late in its turn", effect)
            elif (model := self._carry_out(effect)) is not None:
                self._around.accounts.effect(effect, model, now_s)
            else:
                log.error("the planner's %r does not fit what it was shown", effect)
        self._roster.review()

    def _is_void(self, effect: Effect) -> bool:
        """Whether its jobs are gone: those of a request end together when the first of them is rejected."""
        match effect:
            case Run():
                return not any(self._book.job(name) for name in effect.jobs)
            case Pause() | Reject() | Degrade():
                return self._book.job(effect.job) is None
            case _:
                return False

    def _carry_out(self, effect: Run | Pause | Reject | Degrade | Load | Evict) -> str | None:
        """The model that it was about; None if it does not fit what there is."""
        match effect:
            case Run():
                return self._run(effect)
            case Pause():
                return self._pause(effect)
            case Reject() | Degrade():
                return self._admit(effect)
            case Load():
                keys = {(effect.model, stage) for stage in effect.stages}
                self._fleet[effect.worker].asked |= keys
                entry = to_entry(self._roster.get(effect.model).model)
                load = LoadStages(model=effect.model, entry=entry, stages=effect.stages)
                self._around.send(effect.worker, load)
                return effect.model
            case Evict():
                self._fleet[effect.worker].resident -= {(effect.model, stage) for stage in effect.stages}
                self._around.send(effect.worker, EvictStages(model=effect.model, stages=effect.stages))
                return effect.model

    def _run(self, effect: Run) -> str | None:
        """One task for each job, of which the later ones join the first's."""
        jobs = [job for name in effect.jobs if (job := self._book.job(name)) is not None]
        worker = self._fleet[effect.workers[0]]
        first = None if effect.joins is None else _to_join(worker, jobs[0])
        if len(effect.workers) > 1 or (not worker.is_free if effect.joins is None else first is None):
            return None
        if not all(job.can_run(effect.stages) for job in jobs):
            return None
        model = jobs[0].model
        orders = self._roster.runs(model).orders
        for job in jobs:
            for sibling in self._book.request_of(job).jobs:
                sibling.is_started = True
            orders.job(worker, job, effect.stages, joins=first.task_id if first else None)
            first = first or worker.task
        return model

    def _pause(self, effect: Pause) -> str | None:
        worker = self._fleet[effect.worker]
        task = next((task for task in worker.batch if task.job_id == effect.job), None)
        if task is None or not task.can_pause or task.pausing:
            return None
        self._roster.runs(task.model).orders.pause(task, worker)
        return task.model

    def _admit(self, effect: Reject | Degrade) -> str | None:
        job = self._book.job(effect.job)
        if job is None or job.task_id is not None:
            return None
        if isinstance(effect, Reject):
            self._around.desk.reject(job, effect.detail, retry_after_s=effect.retry_after_s)
        elif job.can_degrade(effect.steps):
            job.degrade(effect.steps)
        else:
            return None
        return job.model


def _to_join(worker: Worker, job: Job) -> Task | None:
    """Of a worker's tasks the one with the most steps of its loop to go; None if none is at it."""
    loops = [
        task
        for task in worker.batch
        if task.model == job.model
        and not task.pausing
        and task.stage_started
        and task.pending[:1] == (job.graph.loop_stage,)
    ]
    return max(loops, key=lambda task: task.left, default=None)
