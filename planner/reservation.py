"""Room for wide tasks: the node that has it soonest is kept from work that would still be there by then.

Without it one job that needs four workers of a node can wait for ever while others take each one that gets
idle. Work that ends before the room is there, or whose loop can be left before, may still use it.

Room is kept only for who needed as much when it came. What has become wide by waiting costs more than it did,
and in an overload the workers that idle for it would have served others.
"""

from __future__ import annotations

from planner.board import Board, Hold
from planner.outlook import Left
from planner.pool import Option
from planner.types import JobView

MAX_HOLDS = 4
"""For how many wide tasks a decision keeps room: those behind are served after these anyway."""


def reserve(board: Board, job: JobView, option: Option, left: Left, place: int) -> None:
    """Hold the idle workers of the node that first has `left.degrees[place]` of them for `job`.

    Nothing is held if the job would be late by then, needed less when it came, or without a node that wide.
    """
    degree = left.degrees[place]
    loop = board.loop_of(job, job.pending[: option.n_merged])
    if degree == 1 or loop is None or not board.pool.n_idle:
        return
    if left.least_degree(job.deadline_s - job.arrived_s) != place:
        return
    if len({hold.node for hold in board.holds}) >= MAX_HOLDS:
        return
    free_s: dict[str, list[float]] = {}
    for each in board.pool.classes:
        if each.kind == option.workers.kind and loop in each.usable and not each.held_up:
            for node, ids in each.idle.items():
                free_s.setdefault(node, []).extend([board.now_s] * len(ids))
    for running in board.running():
        if loop in running.workers.usable and running.workers.kind == option.workers.kind:
            ends_s = float("inf") if running.progress is None else running.progress.ends_s
            free_s.setdefault(running.node, []).extend([ends_s] * running.task.degree)
    held = {hold.node for hold in board.holds}
    room = [
        (sorted(times)[degree - 1], node)
        for node, times in free_s.items()
        if len(times) >= degree and node not in held
    ]
    until_s, node = min(room, default=(float("inf"), ""))
    if until_s + left.total_s[place] > job.deadline_s:
        return
    for each in board.pool.gang_classes(option.workers, loop):
        n = min(degree, len(each.idle.get(node, ())))
        if n:
            board.holds.append(Hold(each, node, tuple(each.take(node, n)), until_s))
            degree -= n


def lend(board: Board, job: JobView, option: Option, left: Left, place: int, degree: int) -> Hold | None:
    """A hold with `degree` workers for the job, which will leave them again in time; None without one."""
    for hold in board.holds:
        if hold.alike is not option.workers or len(hold.workers) < degree:
            continue
        if board.now_s + left.total_s[place] <= hold.until_s or _gives_way(board, job, left, place, hold):
            return hold
    return None


def _gives_way(board: Board, job: JobView, left: Left, place: int, hold: Hold) -> bool:
    steps = job.steps - job.steps_done
    if not board.parts.pauses or steps < 2 or not left.loop_s[place]:
        return False
    return board.now_s + left.before_s + left.loop_s[place] / steps <= hold.until_s
