"""All that one decision looks at: waiting jobs in order, idle workers, running tasks, what is to start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from planner.deadline import URGENCY
from planner.outlook import Left, Outlook
from planner.placement import Targets
from planner.pool import Option, Pool
from planner.profile import Profile
from planner.roster import Moment, Roster, Running, WorkerClass
from planner.types import JobView, Observation, Parts, Reason, Run, StageKey


@dataclass(slots=True, eq=False)
class Start:
    """A task that is to start now. `place` is that of its degree in `left`, which is None if not known."""

    jobs: list[JobView]
    stages: tuple[str, ...]
    option: Option
    node: str
    workers: tuple[str, ...]
    reason: Reason
    left: Left | None
    place: int
    loop: StageKey | None

    @property
    def degree(self) -> int:
        return len(self.workers)

    def run(self) -> Run:
        return Run(
            stages=self.stages,
            jobs=tuple(job.job_id for job in self.jobs),
            workers=self.workers,
            degree=len(self.workers),
            reason=self.reason,
        )


@dataclass(slots=True, eq=False)
class Hold:
    """Idle workers, alike, that are kept for a wide task which their node will have room for at `until_s`."""

    alike: WorkerClass
    node: str
    workers: tuple[str, ...]
    until_s: float


@dataclass(slots=True, eq=False)
class Board:
    """`starts` and `holds` are what was decided so far; what they took is not idle in `pool` any more.

    `joined` and `left`: the workers, each the first of its task, whose loop another job is to join, or which
    is to be left. `n_promised`: how many jobs wait for the next workers that end what they run.
    """

    now_s: float
    parts: Parts
    outlook: Outlook
    pool: Pool
    jobs: tuple[JobView, ...]
    _roster: Roster
    starts: list[Start] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    joined: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    n_promised: int = 0
    _free_at_s: dict[StageKey, float] = field(default_factory=dict)
    _ends_s: dict[frozenset[int], list[float]] = field(default_factory=dict)
    _is_proved: dict[str, bool] = field(default_factory=dict)

    @staticmethod
    def of(
        targets: Targets,
        observation: Observation,
        profile: Profile,
        parts: Parts,
        roster: Roster | None = None,
    ) -> Board:
        """`roster`: what is kept of the last observation, if anything. It is this board's from now on."""
        roster = roster or Roster()
        outlook = Outlook(profile, observation.models, observation.now_s, roster.moment.outlook)
        roster.see(targets, observation)
        roster.moment = Moment(outlook, observation.jobs)
        return Board(observation.now_s, parts, outlook, Pool(roster, outlook), observation.jobs, roster)

    def waiting(self) -> list[JobView]:
        """The jobs that no task has, in order of precedence."""
        return sorted((job for job in self.jobs if not job.running and job.pending), key=precedence)

    def running(self) -> list[Running]:
        """The tasks that workers have, each once, by worker."""
        return self._roster.running

    def loop_of(self, job: JobView, stages: tuple[str, ...]) -> StageKey | None:
        """The loop among `stages` of the job; None without one, or if its model is not served any more."""
        view = self.outlook.view(job.model)
        return (job.model, view.loop_stage) if view is not None and view.loop_stage in stages else None

    def fastest_s(self, job: JobView) -> float | None:
        """What is left of a waiting job if all the fleet were idle; None if no kind of worker is known."""
        fastest_s = None
        # asked of every job that waits: no list is made
        for kind in self.pool.kinds:
            left = self.outlook.left(job, kind)
            if left is not None and (fastest_s is None or left.fastest_s < fastest_s):
                fastest_s = left.fastest_s
        return fastest_s

    def proved_s(self, job: JobView) -> float | None:
        """`fastest_s`, unless that is a guess on some kind of worker."""
        is_proved = self._is_proved.get(job.model)
        if is_proved is None:
            is_proved = all(self.outlook.is_proved(kind[0], job.model) for kind in self.pool.kinds)
            self._is_proved[job.model] = is_proved
        return self.fastest_s(job) if is_proved else None

    def cheapest_s(self, job: JobView) -> float:
        """What is left of it at the degree of least GPU-seconds; 0 if that is not known."""
        lefts = [left for kind in self.pool.kinds if (left := self.outlook.left(job, kind))]
        return min((left.total_s[left.cheapest] for left in lefts), default=0.0)

    def wait_s(self, job: JobView, option: Option, batch: int = 1) -> float:
        """How long the stage behind those merged in `option` must at least wait for a worker that has it.

        `batch` jobs share those merged ones.
        """
        stages = job.pending[: option.n_merged]
        if len(stages) == len(job.pending):
            return 0.0
        busy_s = self.outlook.stages_s(job, stages, option.workers.kind, batch=batch)
        if busy_s is None:
            return 0.0
        return max(0.0, self._free_s((job.model, job.pending[option.n_merged])) - self.now_s - busy_s)

    def start(
        self, job: JobView, option: Option, node: str, place: int, degree: int, reason: Reason
    ) -> Start:
        """Take the workers and note the task."""
        stages = job.pending[: option.n_merged]
        loop = self.loop_of(job, stages)
        workers = self.pool.take(option, node, degree, loop)
        left = self.outlook.left(job, option.workers.kind)
        made = Start([job], stages, option, node, workers, reason, left, place, loop)
        self.starts.append(made)
        return made

    def next_free_s(self, job: JobView) -> float:
        """When a worker that can run the job ends its task, beside the promised ones; inf if none does."""
        able = frozenset(option.workers.place for option in self.pool.options(job))
        ends_s = self._ends_s.get(able)
        if ends_s is None:
            ends_s = self._ends_s[able] = sorted(
                running.progress.ends_s
                for running in self.running()
                if running.workers.place in able and running.progress is not None and not running.task.pausing
            )
        return ends_s[self.n_promised] if self.n_promised < len(ends_s) else math.inf

    def _free_s(self, key: StageKey) -> float:
        """When the first worker with that stage is free, by itself or as it may be told to leave a loop."""
        known = self._free_at_s.get(key)
        if known is None:
            known = self._free_at_s[key] = self._made_free_s(key)
        return known

    def _made_free_s(self, key: StageKey) -> float:
        homes = {each.place for each in self.pool.classes if key in each.usable}
        if any(self.pool.classes[place].n_idle for place in homes):
            return self.now_s
        ends_s = [
            self.now_s
            if running.progress is None
            else running.progress.boundary_s
            if self.parts.pauses and running.task.can_pause and running.progress.boundary_s is not None
            else running.progress.ends_s
            for running in self.running()
            if running.workers.place in homes
        ]
        return min(ends_s, default=self.now_s)


def precedence(job: JobView) -> tuple[float, int, float, str]:
    """What waiting jobs are sorted by: the first is the next to be given a worker that can run it."""
    return job.deadline_s, URGENCY[job.priority], job.arrived_s, job.job_id
