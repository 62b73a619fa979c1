"""What is not served, or with fewer steps: jobs that could not be on time even alone on an idle fleet.

- A job that agreed to fewer steps takes the most that still make it, unless its loop has begun.
- A job with `drop_if_late` is rejected as soon as it is hopeless, whatever has run of it.
- A job whose client set the deadline is rejected if it was hopeless when it came. Later it counts
  as admitted: it is finished, late if need be.
- A job is rejected of which nothing has run yet and some stage has no room on any worker: it would wait for
  ever.
- A deadline that nobody asked for is ours, and no reason to refuse anything.

A cost that is not known is no reason either, nor one from first runs alone: who is refused for it would never
show that it was wrong. A deadline that has passed needs no profile.
"""

from __future__ import annotations

from dataclasses import replace

from planner.board import Board
from planner.outlook import ROUNDING_S
from planner.types import Degrade, JobView, Reason, Reject, StageKey

LEAST_RETRY_S = 1.0
"""Shorter advice would only bring the same request again."""

NO_ROOM_RETRY_S = 60.0
"""Only another worker helps whose stage has no room."""


def admitted(
    board: Board, waiting: list[JobView], impossible: frozenset[StageKey] = frozenset()
) -> tuple[list[JobView], list[Reject | Degrade]]:
    """Those of `waiting` that are to be served, as they are to be, and what became of the others.

    `impossible`: stages that no worker has room for.
    """
    served: list[JobView] = []
    effects: list[Reject | Degrade] = []
    may_reject, may_degrade = board.parts.rejects, board.parts.degrades
    impossible -= board.pool.usable
    for job in waiting:
        if impossible and may_reject and (refused := _without_room(job, impossible)):
            effects.append(refused)
            continue
        can_be_rejected = may_reject and (job.drop_if_late or (job.deadline_asked and not job.started))
        can_be_degraded = may_degrade and job.least_steps is not None and job.least_steps < job.steps
        if not can_be_rejected and not can_be_degraded:
            served.append(job)
            continue
        seconds = board.proved_s(job)
        if not _is_hopeless(board, job, seconds, board.now_s):
            served.append(job)
            continue
        if can_be_degraded and (steps := _most_steps(board, job)):
            served.append(replace(job, steps=steps))
            effects.append(
                Degrade(
                    job=job.job_id,
                    steps=steps,
                    detail=f"{job.steps} steps take {seconds or 0.0:.2f} s,"
                    f" its deadline is in {job.deadline_s - board.now_s:.2f} s",
                )
            )
        elif can_be_rejected and (job.drop_if_late or _is_hopeless(board, job, seconds, job.arrived_s)):
            effects.append(
                Reject(
                    job=job.job_id,
                    retry_after_s=LEAST_RETRY_S,
                    detail=f"takes {seconds or 0.0:.2f} s at best,"
                    f" its deadline is in {job.deadline_s - board.now_s:.2f} s",
                )
            )
        else:
            served.append(job)
    return served, _with_backlog(board, served, effects)


def _without_room(job: JobView, impossible: frozenset[StageKey]) -> Reject | None:
    """The refusal of a job that no worker could ever run to its end."""
    lacking = [stage for stage in job.pending if (job.model, stage) in impossible]
    if not lacking or (job.started and not job.drop_if_late):
        return None
    return Reject(
        job=job.job_id,
        retry_after_s=NO_ROOM_RETRY_S,
        reason=Reason.NO_ROOM,
        detail=f"no worker has room for {', '.join(lacking)} of {job.model}",
    )


def _is_hopeless(board: Board, job: JobView, seconds: float | None, at_s: float) -> bool:
    """Whether a job that begins at `at_s` and takes `seconds` ends too late."""
    if seconds is None:
        return job.drop_if_late and at_s >= job.deadline_s
    return at_s + seconds > job.deadline_s + ROUNDING_S


def _most_steps(board: Board, job: JobView) -> int:
    """The most steps with which it can be on time, at least those that it agreed to; 0 if none can."""
    assert job.least_steps is not None
    if job.steps_done or board.loop_of(job, job.pending) is None:
        return 0
    low, high = max(1, job.least_steps), job.steps - 1
    best = 0
    while low <= high:
        steps = (low + high) // 2
        fewer = replace(job, steps=steps)
        if _is_hopeless(board, fewer, board.fastest_s(fewer), board.now_s):
            high = steps - 1
        else:
            best, low = steps, steps + 1
    return best


def _with_backlog(
    board: Board, served: list[JobView], effects: list[Reject | Degrade]
) -> list[Reject | Degrade]:
    """The same, advising the hopeless to come back when the fleet will be through with what it has now."""
    if not any(effect.reason is Reason.HOPELESS for effect in effects):
        return effects
    work_s = sum(
        max(0.0, running.progress.ends_s - board.now_s) * running.task.degree
        for running in board.running()
        if running.progress is not None
    )
    work_s += sum(board.cheapest_s(job) for job in served)
    retry_after_s = max(LEAST_RETRY_S, work_s / max(1, board.pool.n_workers))
    return [
        replace(effect, retry_after_s=retry_after_s)
        if isinstance(effect, Reject) and effect.reason is Reason.HOPELESS
        else effect
        for effect in effects
    ]
