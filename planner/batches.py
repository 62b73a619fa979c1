"""Jobs that share a task: what found no idle worker joins one that starts now, or a loop that runs.

A batch lasts longer than each of its jobs alone and costs fewer GPU-seconds, up to the profile's knee. While
workers are idle jobs run beside each other; nobody waits for a batch to fill, and nobody becomes late by who
joins. While nobody else waits, a job that would be on time on the next worker to come free joins only if that
is better for the mean latency: without a queue fewer GPU-seconds gain nothing else.
"""

from __future__ import annotations

import math

from planner.board import Board, Start
from planner.outlook import ROUNDING_S
from planner.pool import Option
from planner.roster import Running, WorkerClass
from planner.types import JobView, Reason, Run, Shape

MAX_BATCH = 16
"""The most jobs that are ever put together."""

KNEE_GAIN = 0.1
"""By how much twice the jobs must cut the seconds per job. Less is within a profile's error, and every job of
a larger batch waits for all of it."""

_NOBODY: list[JobView] = []

_Key = tuple[str, str, tuple[str, ...], Shape | None]


class Batches:
    """Of one decision. What was told to `offer`, and what runs, may be joined."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open: dict[_Key, list[Start]] = {}
        self._running: dict[tuple[str, str, Shape], list[Running]] | None = None
        self._joined: dict[str, list[JobView]] = {}
        self._knees: dict[tuple[int, _Key], int] = {}
        self._spares_s: dict[tuple[str, int, int, int], float | None] = {}

    def offer(self, start: Start) -> None:
        """Let others join what starts now."""
        job = start.jobs[0]
        if job.batch_key and start.degree == 1 and self._board.parts.batches:
            self._open.setdefault(self._key(job, start.stages), []).append(start)

    def join_start(self, job: JobView, *, is_lost: bool = False, is_only_one: bool = False) -> bool:
        """Put the job into a task that starts now, if one is there.

        `is_lost`: it need not be on time. `is_only_one`: nobody else found no worker.
        """
        if not job.batch_key or not self._open:
            return False
        for option in self._board.pool.options(job):
            stages = job.pending[: option.n_merged]
            for start in self._open.get(self._key(job, stages), ()):
                if start.option.workers is not option.workers:
                    continue
                if len(start.jobs) + 1 > self.knee(job, stages, option.workers):
                    continue
                if self._none_late([*start.jobs, job], option, stages, is_lost):
                    if is_only_one and self._better_waits_than_starts(job, start, option, stages):
                        continue
                    start.jobs.append(job)
                    return True
        return False

    def join_running(self, job: JobView, *, is_lost: bool = False, is_only_one: bool = False) -> Run | None:
        """What puts the job into a loop that runs, if there is one for it. Flags as in `join_start`."""
        if not job.batch_key or not self._board.parts.joins:
            return None
        for option in self._board.pool.options(job):
            stages = job.pending[: option.n_merged]
            if self._board.loop_of(job, stages) is None:
                continue
            loops = self._loops().get((job.model, job.batch_key, job.shape), ())
            knee = self.knee(job, stages, option.workers) if loops else 1
            if knee < 2:
                continue
            for running in loops:
                new = self._joined.get(running.worker, _NOBODY)
                if len(running.task.job_ids) + len(new) >= knee:
                    continue
                if running.workers is not option.workers or running.worker in self._board.left:
                    continue
                if self._none_late_by_joining(job, running, new, is_lost, is_only_one):
                    self._joined[running.worker] = [*new, job]
                    self._board.joined.add(running.worker)
                    return Run(
                        stages=stages,
                        jobs=(job.job_id,),
                        workers=(running.worker,),
                        reason=Reason.JOINS_BATCH,
                        joins=running.task.job_ids[0],
                    )
        return None

    def knee(self, job: JobView, stages: tuple[str, ...], workers: WorkerClass) -> int:
        """The most jobs for which `stages` still get cheaper per job on such a worker, and that fit there."""
        key = (workers.place, self._key(job, stages))
        known = self._knees.get(key)
        if known is None:
            known = self._knees[key] = self._knee(job, stages, workers)
        return known

    def _knee(self, job: JobView, stages: tuple[str, ...], workers: WorkerClass) -> int:
        outlook, n = self._board.outlook, 1
        alone_s = outlook.stages_s(job, stages, workers.kind)
        while alone_s is not None and 2 * n <= MAX_BATCH:
            twice_s = outlook.stages_s(job, stages, workers.kind, batch=2 * n)
            if twice_s is None or twice_s / (2 * n) > (1 - KNEE_GAIN) * alone_s / n:
                break
            if not self._board.pool.fits(job, stages, workers, batch=2 * n):
                break
            n, alone_s = 2 * n, twice_s
        return n

    def _none_late(
        self, together: list[JobView], option: Option, stages: tuple[str, ...], is_lost: bool
    ) -> bool:
        """Whether all that could be on time in a batch one smaller still can, and the newcomer if it must."""
        n = len(together)
        for job in together:
            before = self._spare_s(job, option, stages, n - 1)
            after = self._spare_s(job, option, stages, n)
            if before is None or after is None:
                return False
            must_be_on_time = not is_lost if job is together[-1] else before >= 0
            if must_be_on_time and after < 0:
                return False
        return True

    def _spare_s(self, job: JobView, option: Option, stages: tuple[str, ...], n: int) -> float | None:
        """How long before its deadline the job ends if `n` jobs share `stages`; None if that is not known.

        What follows them in another task is not shared, and a loop there may still have any degree.
        """
        # asked again for those in a batch by each that would join it
        key = (job.job_id, option.workers.place, len(stages), n)
        try:
            return self._spares_s[key]
        except KeyError:
            made = self._spares_s[key] = self._made_spare_s(job, option, stages, n)
            return made

    def _made_spare_s(self, job: JobView, option: Option, stages: tuple[str, ...], n: int) -> float | None:
        board, kind = self._board, option.workers.kind
        within_s = job.deadline_s - board.now_s - board.wait_s(job, option, n) + ROUNDING_S
        if board.loop_of(job, stages) is not None:
            together = board.outlook.left(job, kind, n)
            return None if together is None else within_s - together.total_s[0]
        alone = board.outlook.left(job, kind)
        alone_s = board.outlook.stages_s(job, stages, kind)
        shared_s = board.outlook.stages_s(job, stages, kind, batch=n)
        if alone is None or alone_s is None or shared_s is None:
            return None
        return within_s - alone.fastest_s - (shared_s - alone_s)

    def _none_late_by_joining(
        self, job: JobView, running: Running, new: list[JobView], is_lost: bool, is_only_one: bool
    ) -> bool:
        outlook, now_s = self._board.outlook, self._board.now_s
        kind = running.workers.kind
        view = outlook.view(job.model)
        progress = running.progress
        n = len(running.jobs) + len(new) + 1
        together = outlook.left(job, kind, n)
        if view is None or progress is None or together is None:
            return False
        step_s = outlook.profile.stage_s(kind[0], view, view.loop_stage, job.shape, 1, batch=n)
        if step_s is None:
            return False
        # the loops wait while those who join run what comes before theirs
        held_up_s = together.before_s * (len(new) + 1)
        joined_s = now_s + held_up_s - together.before_s + together.total_s[0]
        if not is_lost and joined_s > job.deadline_s:
            return False
        ends_s = now_s + held_up_s + (progress.steps_left + 1) * step_s + together.after_s
        if any(progress.ends_s <= other.deadline_s + ROUNDING_S < ends_s for other in running.jobs):
            return False
        for other in new:
            before, after = outlook.left(other, kind, n - 1), outlook.left(other, kind, n)
            within_s = other.deadline_s - now_s - held_up_s
            if before is None or after is None or before.total_s[0] <= within_s < after.total_s[0]:
                return False
        joined_s += len(running.jobs) * max(0.0, ends_s - progress.ends_s)
        return not (is_only_one and self._better_waits(job, running.workers, joined_s))

    def _better_waits_than_starts(
        self, job: JobView, start: Start, option: Option, stages: tuple[str, ...]
    ) -> bool:
        outlook, kind, n = self._board.outlook, option.workers.kind, len(start.jobs)
        alone, alone_s = outlook.left(job, kind), outlook.stages_s(job, stages, kind)
        fewer_s = outlook.stages_s(job, stages, kind, batch=n)
        more_s = outlook.stages_s(job, stages, kind, batch=n + 1)
        if alone is None or alone_s is None or fewer_s is None or more_s is None:
            return False
        joined_s = self._board.now_s + more_s + n * (more_s - fewer_s) + alone.total_s[0] - alone_s
        return self._better_waits(job, option.workers, joined_s)

    def _better_waits(self, job: JobView, workers: WorkerClass, joined_s: float) -> bool:
        """Whether it would be on time on the next worker to come free, and all would be done sooner so.

        `joined_s`: the job's end if it joins, and how much later all that it joins end by that.
        """
        board, kind = self._board, workers.kind
        alone = board.outlook.left(job, kind)
        if alone is None:
            return False
        free_s = board.next_free_s(job)
        for start in board.starts:
            if start.option.workers is workers:
                lasts_s = board.outlook.stages_s(
                    start.jobs[0], start.stages, kind, start.degree, len(start.jobs)
                )
                free_s = min(free_s, math.inf if lasts_s is None else board.now_s + lasts_s)
        waited_s = free_s + alone.total_s[0]
        return waited_s <= job.deadline_s and waited_s + ROUNDING_S < joined_s

    def _loops(self) -> dict[tuple[str, str, Shape], list[Running]]:
        """Loops of degree 1 that have begun and make at least one more step, by who may join them."""
        if self._running is None:
            self._running = {}
            for running in self._board.running():
                task, progress = running.task, running.progress
                if not running.jobs or not running.jobs[0].batch_key or task.pausing or task.degree > 1:
                    continue
                if self._board.loop_of(running.jobs[0], task.pending[:1]) is None:
                    continue
                if progress is not None and progress.boundary_s is not None:
                    key = (task.model, running.jobs[0].batch_key, task.shape)
                    self._running.setdefault(key, []).append(running)
        return self._running

    def _key(self, job: JobView, stages: tuple[str, ...]) -> _Key:
        """Jobs of one key may be one batch of `stages`. An encode has no shape."""
        view = self._board.outlook.view(job.model)
        has_shape = view is None or any(
            view.stages.index(stage) >= view.stages.index(view.loop_stage) for stage in stages
        )
        return job.model, job.batch_key, stages, job.shape if has_shape else None
