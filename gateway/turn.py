"""One turn of the engine: show the planner everything, carry out what it says. Never called twice at once."""

from __future__ import annotations

import logging

from gateway.lifecycle import State
from gateway.roster import Roster
from gateway.surroundings import Surroundings
from pipelines.catalogue import to_entry
from planner.types import Effect, Evict, Load, Observation, Pause, Run, WakeAt
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
            self._carry_out(effect, now_s)
        self._roster.review()

    def _carry_out(self, effect: Effect, now_s: float) -> None:
        match effect:
            case WakeAt():
                self._around.wake_at(effect.at_s)
                return
            case Run():
                job, worker = self._book.job(effect.jobs[0]), self._fleet[effect.workers[0]]
                if job is None or not worker.is_free or not job.can_run(effect.stages):
                    log.error("the planner's %r does not fit what it was shown", effect)
                    return
                model = job.model
                self._roster.runs(model).orders.job(worker, job, effect.stages)
            case Pause():
                worker = self._fleet[effect.worker]
                task = worker.task
                if task is None or task.job_id != effect.job or not task.can_pause or task.pausing:
                    log.error("the planner's %r does not fit what it was shown", effect)
                    return
                model = task.model
                self._roster.runs(model).orders.pause(task, worker)
            case Load():
                model = effect.model
                self._fleet[effect.worker].asked |= {(model, stage) for stage in effect.stages}
                entry = to_entry(self._roster.get(model).model)
                load = LoadStages(model=model, entry=entry, stages=effect.stages)
                self._around.send(effect.worker, load)
            case Evict():
                model = effect.model
                self._fleet[effect.worker].resident -= {(model, stage) for stage in effect.stages}
                self._around.send(effect.worker, EvictStages(model=model, stages=effect.stages))
        self._around.accounts.effect(effect, model, now_s)
