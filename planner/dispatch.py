"""Who runs what now: earliest deadline first over idle workers, merging stages that live together.

A job's consecutive stages on one worker become one task: between them nothing is written or sent. Jobs that
wait for any stage stand in one queue, so a picture to be decoded and a prompt to be encoded on the same
worker go by deadline alone. Whether a busy worker would have been the better choice is not considered.
"""

from __future__ import annotations

from planner.deadline import URGENCY
from planner.placement import Targets
from planner.residency import homes_of
from planner.types import JobView, Observation, Run, StageKey


def runs(targets: Targets, observation: Observation) -> list[Run]:
    """At most one `Run` per idle worker and per ready job, in order of deadline, priority, arrival and id.

    A stage runs where it is resident and placed; a stage resident only where it has no place runs there, so
    that nothing waits for a placement change. A run would queue behind a load, which may take minutes, so a
    worker that loads is taken only if no other one, idle or not, has the job's next stage. Among idle workers
    the choice is: the most stages of the job as one task, the fewest other stages, the id.
    """
    idle = {worker.worker_id: worker for worker in observation.workers if worker.task is None}
    if not idle:
        return []
    homes = homes_of(targets, observation.workers)
    usable = {
        worker.worker_id: frozenset(
            key for key in worker.resident if key in targets[worker.worker_id] or key not in homes
        )
        for worker in observation.workers
    }
    unhindered = {key for w in observation.workers if not w.is_held_up for key in usable[w.worker_id]}
    ready = sorted((job for job in observation.jobs if not job.running), key=precedence)
    effects = []
    for job in ready:
        if not idle:
            break
        can_wait = any((job.model, stage) in unhindered for stage in job.pending[:1])
        merged = {
            name: n
            for name, worker in idle.items()
            if not (can_wait and worker.is_held_up) and (n := _n_merged(job, usable[name]))
        }
        if not merged:
            continue
        worker = min(merged, key=lambda name: _preference(merged[name], usable[name], name))
        effects.append(Run(stages=job.pending[: merged[worker]], jobs=(job.job_id,), workers=(worker,)))
        del idle[worker]
    return effects


def precedence(job: JobView) -> tuple[float, int, float, str]:
    """What waiting jobs are sorted by: the first is the next to be given a worker that can run it."""
    return job.deadline_s, URGENCY[job.priority], job.arrived_s, job.job_id


def _n_merged(job: JobView, usable: frozenset[StageKey]) -> int:
    """How many of the job's next stages a worker with `usable` can run in one task."""
    n = 0
    while n < len(job.pending) and (job.model, job.pending[n]) in usable:
        n += 1
    return n


def _preference(n_merged: int, usable: frozenset[StageKey], worker_id: str) -> tuple[int, int, str]:
    return -n_merged, len(usable) - n_merged, worker_id
