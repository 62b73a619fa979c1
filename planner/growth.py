"""Workers that would idle, spent on latency: by seconds saved per worker, on what starts now and what runs.

Only while nothing waits. Each task grows by one degree at a time. What runs is paused to go on wider, if that
saves far more than the pause costs; it is placed like any other job when it is back.
"""

from __future__ import annotations

import heapq

from planner.board import Board, Start
from planner.outlook import GoingOn, Left
from planner.pauses import victim_of
from planner.roster import Running
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
    idle = board.pool.idle_by_node()
    for running in board.running():
        task = running.task
        if task.pausing:
            claimed[running.node] = claimed.get(running.node, 0) + task.degree
            continue
        if idle.get(running.node, 0) < task.degree or not _may_grow(board, running):
            continue
        loop = board.loop_of(running.jobs[0], task.pending) if running.jobs else None
        if loop is None or board.pool.n_free(running.workers, running.node, loop) < task.degree:
            continue
        victim = victim_of(board, running)
        if victim and (grown := _grown(victim.going_on, victim.degree, victim.steps_left)):
            degree, saving_s = grown
            more = degree - task.degree
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


def _may_grow(board: Board, running: Running) -> bool:
    """Whether it would be worth a pause with all steps left that it can have: most tasks end here."""
    task = running.task
    if not task.can_pause or len(task.job_ids) != 1:
        return False
    going_on = board.outlook.going_on(task, running.workers.kind)
    return (
        going_on is not None and _grown(going_on, task.degree, task.steps - task.steps_done - 1) is not None
    )


def _grown(going_on: GoingOn, degree: int, steps_left: int) -> tuple[int, float] | None:
    """The next degree of a running loop and the seconds that it saves; None if it is not worth a pause."""
    place = going_on.degrees.index(degree)
    if place + 1 >= len(going_on.degrees):
        return None
    wider = going_on.degrees[place + 1]
    now_s, then_s = (steps_left * seconds for seconds in going_on.step_s[place : place + 2])
    resume_s = going_on.resume_s
    saving_s = now_s - then_s - resume_s
    if saving_s <= LEAST_SAVING * resume_s or not _is_worth_it(now_s, then_s, wider / degree):
        return None
    return wider, saving_s


def _is_worth_it(now_s: float, then_s: float, ratio: float) -> bool:
    """Whether `ratio` times as many workers speed up a loop enough, judged per doubling."""
    if then_s <= 0.0 or now_s <= then_s:
        return False
    return now_s / then_s >= 1.0 + (LEAST_SPEED_UP - 1.0) * (ratio - 1.0)
