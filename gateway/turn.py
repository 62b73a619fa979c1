"""One turn of the engine: show the planner everything, carry out what it says. Never called twice at once."""

from __future__ import annotations

import logging
from typing import Protocol

from gateway.accounts import Accounts
from gateway.decisions import Planner
from gateway.fleet import Fleet
from gateway.jobs import JobBook
from gateway.runs import Runs
from pipelines.catalogue import Model, to_entry
from planner.types import Effect, Evict, Load, Observation, Pause, Run, WakeAt
from wire.to_worker import EvictStages, LoadStages, ToWorker

log = logging.getLogger(__name__)


class Turner(Protocol):
    """Who takes turns: the engine."""

    def send(self, worker_id: str, message: ToWorker) -> None: ...

    def wake_at(self, at_s: float) -> None: ...


class Turn:
    """What a turn needs, bound once the model's stages are known."""

    def __init__(
        self,
        turner: Turner,
        planner: Planner,
        runs: Runs,
        *,
        model: Model,
        fleet: Fleet,
        book: JobBook,
        accounts: Accounts,
    ) -> None:
        self.planner = planner
        self.runs = runs
        self._turner = turner
        self._entry = to_entry(model)
        self._fleet = fleet
        self._book = book
        self._accounts = accounts

    def take(self, now_s: float) -> None:
        """Warm-ups first: a busy worker would never come to them. Then one decision and its effects."""
        for worker in self._fleet:
            if worker.is_free:
                self.runs.warm_up(worker)
        for job in self._book:
            self.runs.skip_encode(job)
        held_until_s = [job.hold_until_s for job in self._book if job.hold_until_s > now_s]
        if self.runs.warm_ups.hold_until_s > now_s:
            held_until_s.append(self.runs.warm_ups.hold_until_s)
        if held_until_s:
            self._turner.wake_at(min(held_until_s))
        observation = Observation(
            now_s=now_s,
            jobs=tuple(job.view() for job in self._book if job.pending and job.hold_until_s <= now_s),
            workers=self._fleet.views(),
            models=self.planner.models,
            finished=self.runs.take_samples(),
        )
        for effect in self.planner.decide(observation):
            self._carry_out(effect, now_s)

    def _carry_out(self, effect: Effect, now_s: float) -> None:
        match effect:
            case WakeAt():
                self._turner.wake_at(effect.at_s)
                return
            case Run():
                job, worker = self._book.job(effect.jobs[0]), self._fleet[effect.workers[0]]
                if job is None or not worker.is_free or not job.can_run(effect.stages):
                    log.error("the planner's %r does not fit what it was shown", effect)
                    return
                self.runs.dispatch(worker, job, effect.stages)
            case Pause():
                worker = self._fleet[effect.worker]
                task = worker.task
                if task is None or task.job_id != effect.job or not task.can_pause or task.pausing:
                    log.error("the planner's %r does not fit what it was shown", effect)
                    return
                self.runs.pause(task, worker)
            case Load():
                self._fleet[effect.worker].asked |= {(effect.model, stage) for stage in effect.stages}
                load = LoadStages(model=effect.model, entry=self._entry, stages=effect.stages)
                self._turner.send(effect.worker, load)
            case Evict():
                self._fleet[effect.worker].resident -= {(effect.model, stage) for stage in effect.stages}
                self._turner.send(effect.worker, EvictStages(model=effect.model, stages=effect.stages))
        self._accounts.effect(effect, now_s)
