"""What a job that cannot be on time may expect: to be served on what stays idle, and not to wait for ever.

Its deadline is lost, and every worker that it takes may cost another job its own. So it comes behind all that
can still be on time, until it has waited behind its deadline for `OVERDUE` times what it costs. Then it goes
first, at its cheapest degree, as long as overdue tasks have no more than `OVERDUE_SHARE` of the workers: with
more of them a fleet that is overloaded for long would serve nobody on time.
"""

from __future__ import annotations

from planner.board import Board
from planner.outlook import ROUNDING_S
from planner.types import JobView

OVERDUE = 20.0
"""After how many times its own cost behind its deadline a job goes first."""

OVERDUE_SHARE = 1 / 8
"""Of the workers, at least one."""

SPARED_SHARE = 1 / 8
"""Of the workers, rounded down, that late work leaves idle for who comes next: a step of seconds is not left
in time. Source: own simulation."""


def is_late(board: Board, job: JobView) -> bool:
    """Whether it could not be on time if all the fleet were idle. What is not known is not late."""
    seconds = board.fastest_s(job)
    return seconds is not None and board.now_s + seconds > job.deadline_s + ROUNDING_S


def is_overdue(board: Board, job: JobView, at_s: float) -> bool:
    """Whether it had at `at_s` waited behind its deadline for as long as late work may be made to."""
    return at_s > job.deadline_s and at_s - job.deadline_s > OVERDUE * board.cheapest_s(job)


def n_overdue_allowed(board: Board) -> int:
    """How many more workers may be given to overdue jobs now."""
    taken = sum(
        running.task.degree
        for running in board.running()
        if any(is_overdue(board, job, running.task.started_s) for job in running.jobs)
    )
    return max(1, int(board.pool.n_workers * OVERDUE_SHARE)) - taken
