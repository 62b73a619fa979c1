"""Who runs what now, where and at which degree: deadlines first, then GPU-seconds, then mean latency.

- Earliest deadline first, each job at the smallest degree that still meets its deadline, on the node where it
  fits best, or its own. A job's consecutive stages on one worker become one task.
- A deadline counts to the end of the job: what remains of it, and the least wait for the homes of its next
  stages. An encode whose loop cannot begin in time lets others go first.
- Who finds no worker joins a batch, or has room reserved, or has others paused for it.
- What cannot be on time is served after all that can, on what stays idle (`planner.lateness`).
- Workers that would idle are spent on latency, while nothing waits (`planner.growth`).

A cost that is not known is taken to be in time at degree 1.
"""

from __future__ import annotations

from planner import growth, reservation
from planner.admission import admitted
from planner.batches import Batches
from planner.board import Board, Hold, Start, precedence
from planner.lateness import SPARED_SHARE, is_late, is_overdue, n_overdue_allowed
from planner.outlook import Left, on_grid
from planner.pauses import MAX_URGENT, Pauses, Urgent
from planner.placement import Targets
from planner.pool import Option
from planner.profile import Profile
from planner.roster import Roster
from planner.types import Effect, JobView, Observation, Parts, Pause, Reason, Run, StageKey, WakeAt

__all__ = ["dispatched", "precedence"]

LOOK_AGAIN_S = 0.25
"""How often to look again while a job waits that running ones may have to give way to."""

MAX_UNPLACED = 64
"""How many jobs that found no worker are looked at further, once none is idle. More could not be served."""


def dispatched(
    targets: Targets,
    observation: Observation,
    profile: Profile,
    parts: Parts,
    roster: Roster | None = None,
    impossible: frozenset[StageKey] = frozenset(),
) -> tuple[list[Effect], WakeAt | None]:
    """What becomes of the waiting jobs: refusals and fewer steps, runs, pauses; and when to look again.

    `roster`: what is kept of the workers since the last decision. `impossible`: stages that none of them has
    room for.
    """
    board = Board.of(targets, observation, profile, parts, roster)
    waiting, effects = admitted(board, board.waiting(), impossible)
    round_ = _Round(board)
    round_.serve(waiting)
    paused = round_.pauses
    if parts.grows and not round_.n_waiting:
        growth.widen(board)
        paused += growth.growing_pauses(board)
    runs = [*(start.run() for start in board.starts), *round_.joins]
    wake = None
    if round_.has_urgent and parts.pauses and any(running.task.can_pause for running in board.running()):
        wake = WakeAt(at_s=on_grid(observation.now_s, LOOK_AGAIN_S), reason=Reason.WAITING_JOBS)
    return [*effects, *runs, *paused], wake


class _Round:
    """One pass over the waiting jobs. `n_waiting` get no task; `has_urgent`: nothing helps one of them."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._batches = Batches(board)
        self._pauses = Pauses(board)
        self._unplaced: list[tuple[JobView, Urgent | None]] = []
        self.joins: list[Run] = []
        self.pauses: list[Pause] = []
        self.has_urgent = False
        self._is_roomy = False
        self._n_found_none = 0
        self.n_waiting = 0

    def serve(self, waiting: list[JobView]) -> None:
        """Overdue ones, what can be on time, what cannot because of its next stage's homes, late ones."""
        board = self._board
        on_time: list[JobView] = []
        late: list[JobView] = []
        hindered: list[JobView] = []
        for job in waiting:
            (late if is_late(board, job) else on_time).append(job)
        if late:
            late = self._serve_overdue(late)
        self._is_roomy = board.parts.grows and not late and self._has_room(on_time)
        for place, job in enumerate(on_time):
            if len(self._unplaced) >= MAX_URGENT and not board.pool.n_idle and not board.holds:
                if len(self._unplaced) >= MAX_UNPLACED:
                    self.n_waiting += len(on_time) - place
                    break
                if not job.batch_key:
                    self.n_waiting += 1
                    self.has_urgent = True
                    continue
            is_only_one = place == len(on_time) - 1 and not (self._n_found_none or late or hindered)
            if not self._serve(job, is_only_one=is_only_one):
                hindered.append(job)
        is_only_one = self._n_found_none == 1 and not (late or hindered)
        for job, urgent in self._unplaced:
            self._relieve(job, urgent, is_only_one=is_only_one)
        self._serve_late(hindered, Reason.EARLIEST_DEADLINE, spared=0)
        n_spared = int(board.pool.n_workers * SPARED_SHARE) if board.parts.reserves else 0
        self._serve_late(late, Reason.LATE, spared=n_spared)

    def _relieve(self, job: JobView, urgent: Urgent | None, *, is_only_one: bool) -> None:
        """It found no worker: a running loop that it can join, or others paused for it."""
        if joined := self._batches.join_running(job, is_only_one=is_only_one):
            self.joins.append(joined)
            return
        self.n_waiting += 1
        if urgent is not None and self._board.parts.pauses:
            made = self._pauses.relieve(urgent, is_only_one=is_only_one)
            self.has_urgent |= made is None
            self.pauses += made or []
            if made is not None:
                return
        self._board.n_promised += 1

    def _serve(self, job: JobView, *, is_only_one: bool) -> bool:
        """Start it, or note that it has no worker; False if its next stage's homes make it late anyway."""
        board = self._board
        options = board.pool.options(job)
        choices: list[tuple[tuple[int, int, float, int, int], Option, Left | None, int]] = []
        busy: Urgent | None = None
        is_hindered = False
        for option in options:
            left = board.outlook.left(job, option.workers.kind)
            place, degree = 0, 1
            if left is not None:
                within_s = job.deadline_s - board.now_s - board.wait_s(job, option)
                has_loop = self._has_loop(job, option)
                narrowest = board.pool.narrowest(job, option.workers) if has_loop else 1
                found = left.least_degree(within_s, narrowest)
                if found is None:
                    is_hindered = True
                    continue
                place = found
                degree = left.degrees[place] if has_loop else 1
                busy = busy or Urgent(job, option, left, place)
            if option.workers.n_idle or board.holds:
                seconds = left.total_s[place] if left is not None else 0.0
                workers = option.workers
                key = (degree, -option.n_merged, seconds, len(workers.usable), workers.place)
                choices.append((key, option, left, place))
        for (degree, *_), option, left, place in sorted(choices, key=lambda choice: choice[0]):
            if start := self._start(job, option, left, place, degree, Reason.EARLIEST_DEADLINE):
                self._batches.offer(start)
                return True
        self._n_found_none += 1
        if self._batches.join_start(job, is_only_one=is_only_one):
            return True
        if is_hindered and busy is None:
            return False
        self._unplaced.append((job, busy))
        if busy is not None and board.parts.reserves:
            reservation.reserve(board, job, busy.option, busy.left, busy.place)
        return True

    def _start(
        self, job: JobView, option: Option, left: Left | None, place: int, degree: int, reason: Reason
    ) -> Start | None:
        board = self._board
        loop = board.loop_of(job, job.pending[: option.n_merged])
        node = None
        if self._is_roomy and left is not None and loop is not None:
            # beside workers that it will grow over: later that would take a pause
            for wide in reversed(left.degrees):
                if degree < wide <= growth.wanted(left, place):
                    node = node or board.pool.fitting_node(option, wide, job.node, loop)
        node = node or board.pool.fitting_node(option, degree, job.node, loop)
        if node is not None:
            return board.start(job, option, node, place, degree, reason)
        if left is not None and (hold := reservation.lend(board, job, option, left, place, degree)):
            return self._start_on(hold, job, option, left, place, degree, reason)
        return None

    def _start_on(
        self, hold: Hold, job: JobView, option: Option, left: Left, place: int, degree: int, reason: Reason
    ) -> Start:
        workers, hold.workers = hold.workers[:degree], hold.workers[degree:]
        stages = job.pending[: option.n_merged]
        loop = self._board.loop_of(job, stages)
        start = Start([job], stages, option, hold.node, workers, reason, left, place, loop)
        self._board.starts.append(start)
        return start

    def _has_room(self, on_time: list[JobView]) -> bool:
        """Whether the idle workers are enough for every waiting job to grow as far as it would."""
        board = self._board
        n_free = board.pool.n_idle
        for job in on_time:
            options = board.pool.options(job)
            left = board.outlook.left(job, options[0].workers.kind) if options else None
            n_free -= 1 if left is None else growth.wanted(left, 0)
            if n_free < 0:
                return False
        return True

    def _serve_overdue(self, late: list[JobView]) -> list[JobView]:
        """Those that have waited too long, first; returns the others."""
        board = self._board
        overdue = {job.job_id for job in late if is_overdue(board, job, board.now_s)}
        if not overdue:
            return late
        allowed = n_overdue_allowed(board)
        served = set()
        for job in late:
            if job.job_id in overdue and allowed > 0 and (start := self._cheapest(job, Reason.OVERDUE)):
                allowed -= start.degree
                served.add(job.job_id)
        return [job for job in late if job.job_id not in served]

    def _serve_late(self, jobs: list[JobView], reason: Reason, spared: int) -> None:
        for place, job in enumerate(jobs):
            n_idle = self._board.pool.n_idle
            if n_idle > spared and (start := self._cheapest(job, reason)):
                self._batches.offer(start)
                continue
            if self._batches.join_start(job, is_lost=True):
                continue
            if joined := self._batches.join_running(job, is_lost=True):
                self.joins.append(joined)
                continue
            self.n_waiting += 1
            if place >= MAX_UNPLACED and n_idle <= spared:
                self.n_waiting += len(jobs) - place - 1
                return

    def _cheapest(self, job: JobView, reason: Reason) -> Start | None:
        """Start it where it costs the fewest GPU-seconds of all idle workers."""
        for option in self._board.pool.options(job):
            if not option.workers.n_idle:
                continue
            left = self._board.outlook.left(job, option.workers.kind)
            place, degree = 0, 1
            if left is not None:
                place = left.cheapest
                if self._has_loop(job, option):
                    place = left.cheapest_from(self._board.pool.narrowest(job, option.workers))
                    degree = left.degrees[place]
            loop = self._board.loop_of(job, job.pending[: option.n_merged])
            node = self._board.pool.fitting_node(option, degree, job.node, loop)
            if node is not None:
                return self._board.start(job, option, node, place, degree, reason)
        return None

    def _has_loop(self, job: JobView, option: Option) -> bool:
        return self._board.loop_of(job, job.pending[: option.n_merged]) is not None
