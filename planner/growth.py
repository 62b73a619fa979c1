"""Workers that would idle, spent on latency: by seconds saved per worker, on what starts now and what runs.

Only while nothing waits. Each task grows by one degree at a time. What runs is paused to go on wider, if that
saves far more than the pause costs; it is placed like any other job when it is back.
"""

from __future__ import annotations

import heapq

from planner.board import Board, Start
from planner.outlook import Left
from planner.pauses import Victim, victim_of
from planner.types import Pause, Reason

LEAST_SPEED_UP = 1.5
"""Of a doubling of the degree. Source: own simulation; 1.3 to 1.5 differ little."""

LEAST_SAVING = 10.0
"""What a pause to grow must save, in times that a resume costs."""


def widen(board: Board) -> None:
    """Give what starts now more workers of its node."""
    queue: list[tuple[float, int, Start]] = []

    def push(number: int, start: Start) -> None:
        if gain := _gain(start):
            heapq.heappush(queue, (-gain, number, start))

    for number, start in enumerate(board.starts):
        if len(start.jobs) == 1:
            push(number, start)
    while queue:
        _, number, start = heapq.heappop(queue)
        if start.left is None or start.loop is None:
            continue
        more = start.left.degrees[start.place + 1] - start.degree
        if board.pool.n_free(start.option.workers, start.node, start.loop) >= more:
            start.workers += tuple(board.pool.more(start.option.workers, start.node, more, start.loop))
            start.place += 1
            start.reason = Reason.SPARE_WORKERS
            push(number, start)


def growing_pauses(board: Board) -> list[Pause]:
    """Pauses of running loops whose node has the workers for the next degree idle, best gain first."""
    if not board.pool.n_idle:
        return []
    claimed: dict[str, int] = {}
    candidates = []
    for running in board.running():
        if running.task.pausing:
            claimed[running.node] = claimed.get(running.node, 0) + running.task.degree
            continue
        if not running.jobs or not board.pool.has_idle(running.node):
            continue
        loop = board.loop_of(running.jobs[0], running.task.pending)
        if loop is None or board.pool.n_free(running.workers, running.node, loop) < running.task.degree:
            continue
        victim = victim_of(board, running)
        grown = _grown(victim) if victim else None
        if victim is not None and grown is not None:
            degree, saving_s = grown
            more = degree - victim.degree
            candidates.append((-saving_s / more, running.worker, more, loop, running, saving_s))
    effects = []
    for _, worker, more, loop, running, saving_s in sorted(candidates, key=lambda each: each[:2]):
        taken = claimed.get(running.node, 0)
        if board.pool.n_free(running.workers, running.node, loop) - taken < more:
            continue
        claimed[running.node] = taken + more
        effects.append(
            Pause(
                worker=worker,
                job=running.jobs[0].job_id,
                reason=Reason.SPARE_WORKERS,
                detail=f"{more} more workers save {saving_s:.2f} s",
            )
        )
    return effects


def wanted(left: Left, place: int) -> int:
    """The degree that a job would grow to from that at `place`, with workers to spare."""
    while place + 1 < len(left.degrees):
        ratio = left.degrees[place + 1] / left.degrees[place]
        if not _is_worth_it(left.loop_s[place], left.loop_s[place + 1], ratio):
            break
        place += 1
    return left.degrees[place]


def _gain(start: Start) -> float:
    """Seconds that the next degree saves per worker more; 0 if it is not worth it or there is none."""
    left = start.left
    if left is None or start.loop is None or start.place + 1 >= len(left.degrees):
        return 0.0
    if start.degree != left.degrees[start.place]:
        return 0.0
    now_s, then_s = left.loop_s[start.place], left.loop_s[start.place + 1]
    ratio = left.degrees[start.place + 1] / start.degree
    if not _is_worth_it(now_s, then_s, ratio):
        return 0.0
    return (now_s - then_s) / (left.degrees[start.place + 1] - start.degree)


def _grown(victim: Victim) -> tuple[int, float] | None:
    """The next degree of a running loop and the seconds that it saves; None if it is not worth a pause."""
    going_on = victim.going_on
    place = going_on.degrees.index(victim.degree)
    if place + 1 >= len(going_on.degrees):
        return None
    degree = going_on.degrees[place + 1]
    now_s, then_s = (victim.steps_left * seconds for seconds in going_on.step_s[place : place + 2])
    resume_s = going_on.resume_s
    saving_s = now_s - then_s - resume_s
    if saving_s <= LEAST_SAVING * resume_s or not _is_worth_it(now_s, then_s, degree / victim.degree):
        return None
    return degree, saving_s


def _is_worth_it(now_s: float, then_s: float, ratio: float) -> bool:
    """Whether `ratio` times as many workers speed up a loop enough, judged per doubling."""
    if then_s <= 0.0 or now_s <= then_s:
        return False
    return now_s / then_s >= 1.0 + (LEAST_SPEED_UP - 1.0) * (ratio - 1.0)
