"""Whom to pause for jobs that are more urgent and found no worker.

A loop may be left at its next step boundary, for a job with an earlier deadline, if that one still makes its
deadline so, and the one that is left makes its own behind it with something to spare, or goes on at once on
fewer workers. Late work gives way to all that can be on time. The urgent job is not promised the workers: it
is the next in order when they are free. While one comes free in time by itself, a loop is left only if it has
more to do than the urgent job, and for a job that waits alone only if the mean latency gains by it: if that
job ends, with time for a resume, before that worker is free.

How often a job can be paused is bounded: between two pauses its loop runs for at least `LEAST_RUN` times what
a resume costs, a step at least. So pauses take at most a tenth of its time, and it moves on whatever comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.board import Board
from planner.lateness import is_overdue
from planner.outlook import GoingOn, Left
from planner.pool import Option
from planner.roster import Running
from planner.types import JobView, Pause, Reason, StageKey

MAX_URGENT = 6
"""For how many waiting jobs a decision looks: those behind wait for the same workers."""

ROOM = 1.1
"""What a paused job must have until its deadline over what it needs. Source: own simulation."""

LEAST_RUN = 10.0
"""What a loop runs between two pauses, in times that a resume costs."""


@dataclass(frozen=True, slots=True)
class Urgent:
    """A job that found no worker, and what it needs: so many of `option`'s node mates, until its deadline."""

    job: JobView
    option: Option
    left: Left
    place: int


@dataclass(frozen=True, slots=True)
class Victim:
    """A running loop that can be left at `boundary_s`. `deadline_s` is never for late work."""

    running: Running
    boundary_s: float
    deadline_s: float
    steps_left: int
    going_on: GoingOn

    @property
    def degree(self) -> int:
        return self.running.task.degree

    def needs_s(self, degree: int) -> float:
        """What is left of it behind the boundary, at one of the degrees that it can go on at."""
        going_on = self.going_on
        step_s = going_on.step_s[going_on.degrees.index(degree)]
        return going_on.resume_s + self.steps_left * step_s + going_on.after_s


class Pauses:
    """Of one decision."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._n_urgent = 0
        self._coming: dict[str, int] = {}
        self._victims: dict[str, list[Victim]] | None = None

    def relieve(self, urgent: Urgent, *, is_only_one: bool = False) -> list[Pause] | None:
        """The fewest pauses on one node that make room for it: [] if room is coming, None if they cannot.

        None as well for those behind the first `MAX_URGENT`. `is_only_one`: nobody else found no worker.
        """
        self._n_urgent += 1
        if self._n_urgent > MAX_URGENT:
            return None
        if self._victims is None:
            self._victims = self._found()
        board, job = self._board, urgent.job
        loop = board.loop_of(job, job.pending[: urgent.option.n_merged])
        degree = 1 if loop is None else urgent.left.degrees[urgent.place]
        run_s = urgent.left.total_s[urgent.place]
        latest_s = job.deadline_s - run_s
        for node, n_coming in self._coming.items():
            if n_coming + _n_idle(board, urgent, loop, node) >= degree:
                self._coming[node] -= degree
                return []
        able_to_run = {option.workers.place for option in board.pool.options(job)}
        free_s = board.next_free_s(job) if degree == 1 else math.inf
        has_to_be = free_s > latest_s
        best: tuple[tuple[int, float, str], list[Victim]] | None = None
        gone = board.joined | board.left
        for node, victims in self._victims.items():
            able = [
                victim
                for victim in victims
                if victim.deadline_s > job.deadline_s
                and victim.boundary_s <= latest_s
                and (has_to_be or _pays(victim, run_s, free_s, is_only_one=is_only_one))
                and victim.running.workers.place in able_to_run
                and victim.running.worker not in gone
            ]
            if not able:
                continue
            need = degree - _n_idle(board, urgent, loop, node) - self._coming.get(node, 0)
            if chosen := _enough(able, need, run_s):
                key = (len(chosen), max(victim.boundary_s for victim in chosen), node)
                if best is None or key < best[0]:
                    best = key, chosen
        if best is None:
            return None
        (_, _, node), chosen = best
        board.left.update(victim.running.worker for victim in chosen)
        freed = sum(victim.degree for victim in chosen)
        self._coming[node] = self._coming.get(node, 0) + freed - degree
        return [
            Pause(
                worker=victim.running.worker,
                job=victim.running.jobs[0].job_id,
                reason=Reason.MORE_URGENT,
                detail=f"{job.job_id} needs {degree} of {node} within {latest_s - board.now_s:.2f} s",
            )
            for victim in chosen
        ]

    def _found(self) -> dict[str, list[Victim]]:
        """Who could be paused, by node, latest deadline first. Who was told to is noted as coming."""
        by_node: dict[str, list[Victim]] = {}
        for running in self._board.running():
            if running.task.pausing:
                self._coming[running.node] = self._coming.get(running.node, 0) + running.task.degree
            elif victim := victim_of(self._board, running):
                by_node.setdefault(running.node, []).append(victim)
        for victims in by_node.values():
            victims.sort(key=lambda victim: (-victim.deadline_s, victim.running.worker))
        return by_node


def victim_of(board: Board, running: Running) -> Victim | None:
    """None if the task cannot be told to leave its loop, should not be yet, or its cost is not known.

    Nor is one that was overdue when it began: it has waited for long enough.
    """
    task = running.task
    if not task.can_pause or task.pausing or len(task.job_ids) != 1 or running.worker in board.joined:
        return None
    progress, jobs = running.progress, running.jobs
    if not jobs or progress is None or progress.boundary_s is None:
        return None
    going_on = board.outlook.going_on(task, running.workers.kind)
    if going_on is None or progress.steps_made * progress.step_s < LEAST_RUN * going_on.resume_s:
        return None
    job = jobs[0]
    is_late = progress.ends_s > job.deadline_s
    if is_late and is_overdue(board, job, task.started_s):
        return None
    deadline_s = float("inf") if is_late else job.deadline_s
    return Victim(running, progress.boundary_s, deadline_s, progress.steps_left, going_on)


def _pays(victim: Victim, run_s: float, free_s: float, *, is_only_one: bool) -> bool:
    """Whether a pause for who could begin at `free_s` as well makes the mean latency shorter.

    Of those two, one gains what it would have waited; the other waits for as long as the first one runs, and
    for its resume. Where more jobs wait it is worth more to have fewer of them behind this one.
    """
    if victim.needs_s(victim.degree) <= run_s:
        return False
    return not is_only_one or victim.boundary_s + run_s + victim.going_on.resume_s < free_s


def _enough(able: list[Victim], need: int, run_s: float) -> list[Victim]:
    """Of those `able` to be left, latest deadline first, the fewest that free `need` workers, if any do.

    One that can go on at once on what it does not give is taken before any that has to wait.
    """
    for victim in able:
        rest = victim.degree - need
        if rest > 0 and any(
            degree <= rest and victim.boundary_s + ROOM * victim.needs_s(degree) <= victim.deadline_s
            for degree in victim.going_on.degrees
        ):
            return [victim]
    chosen: list[Victim] = []
    for victim in able:
        if need <= 0:
            break
        if victim.boundary_s + run_s + ROOM * victim.needs_s(victim.degree) <= victim.deadline_s:
            chosen.append(victim)
            need -= victim.degree
    return chosen if need <= 0 else []


def _n_idle(board: Board, urgent: Urgent, loop: StageKey | None, node: str) -> int:
    if loop is None:
        return len(urgent.option.workers.idle.get(node, ()))
    return board.pool.n_free(urgent.option.workers, node, loop)
