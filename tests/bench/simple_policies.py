"""Policies small enough to check by hand, for tests of what drives them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.costs import Costs
from planner.types import Effect, JobView, Observation, Pause, Reason, Reject, Run, WorkerView

_WHY = Reason.MORE_URGENT


class Earliest:
    """Whole pipelines, earliest deadline first, each at the smallest degree that still meets its deadline.

    `drops`: hopeless jobs are rejected, else they run at degree 1 when nothing else wants to.
    """

    def __init__(self, costs: Costs, *, drops: bool = True) -> None:
        self._costs = costs
        self._drops = drops

    def __call__(self, state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        free: dict[str, list[WorkerView]] = {}
        for worker in seen.workers:
            if worker.task is None:
                free.setdefault(worker.node, []).append(worker)
        effects: list[Effect] = []
        late: list[JobView] = []
        waiting = [job for job in seen.jobs if not job.running]
        for job in sorted(waiting, key=lambda job: (job.deadline_s, job.job_id)):
            degree = self._degree(job, seen.now_s)
            if degree is None and self._drops:
                effects.append(Reject(job=job.job_id, retry_after_s=1.0))
            elif degree is None:
                late.append(job)
            elif (run := _run(job, degree, free)) is not None:
                effects.append(run)
        effects += [run for job in late if (run := _run(job, 1, free)) is not None]
        return None, tuple(effects)

    def _degree(self, job: JobView, now_s: float) -> int | None:
        costs = self._costs.models[job.model]
        for degree in costs.degrees(job.shape):
            share = (job.steps - job.steps_done) / job.steps
            rest_s = costs.latency_s(job.shape, degree) - costs.rest_s(job.shape)
            left_s = costs.rest_s(job.shape) + share * rest_s + (self._costs.resume_s if job.started else 0.0)
            if now_s + left_s <= job.deadline_s:
                return degree
        return None


class Restless(Earliest):
    """The same, and every loop is paused whenever that may be told."""

    def __call__(self, state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        _, effects = super().__call__(state, seen)
        pauses = [
            Pause(worker=worker.worker_id, job=task.job_ids[0], reason=_WHY)
            for worker in seen.workers
            if (task := worker.task)
            and task.can_pause
            and not task.pausing
            and task.workers[0] == worker.worker_id
        ]
        return None, (*effects, *pauses)


def _run(job: JobView, degree: int, free: dict[str, list[WorkerView]]) -> Run | None:
    fitting = [node for node, workers in free.items() if len(workers) >= degree]
    if not fitting:
        return None
    node = min(fitting, key=lambda name: (len(free[name]), name))
    workers: Sequence[WorkerView] = [free[node].pop(0) for _ in range(degree)]
    names = tuple(worker.worker_id for worker in workers)
    return Run(stages=job.pending, jobs=(job.job_id,), workers=names, degree=degree)
