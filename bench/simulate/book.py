"""The jobs of a simulation: they arrive, are shown to the planner, and each ends once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.arrivals import Arrival
from bench.costs import Costs
from bench.simulate.clock import Clock
from bench.simulate.parts import ON_TIME_S, Job, Outcome
from bench.simulate.views import job_view
from planner.types import JobView


class Book:
    """`jobs` are all that ever arrived, `views` what the planner sees of those that are open, by id.

    `on_due` is told of a running job that is not to be finished late when its deadline has come.
    """

    def __init__(
        self, clock: Clock, costs: Costs, arrivals: Sequence[Arrival], *, drop_if_late: bool
    ) -> None:
        self.jobs: list[Job] = []
        self.views: dict[str, JobView] = {}
        self.on_due: Callable[[Job], None] | None = None
        self.on_end: Callable[[Job], None] | None = None
        self._clock = clock
        self._models = costs.views
        self._arrivals = arrivals
        self._drop_if_late = drop_if_late
        self._open: dict[str, Job] = {}
        if arrivals:
            clock.at(arrivals[0].at_s, self._arrive, arrivals[0])

    @property
    def is_done(self) -> bool:
        """Whether every job has arrived and ended."""
        return not self._open and len(self.jobs) == len(self._arrivals)

    @property
    def last_arrival_s(self) -> float:
        return self._arrivals[-1].at_s if self._arrivals else 0.0

    def waiting(self, job_id: str) -> Job | None:
        """An open job that no task has."""
        job = self._open.get(job_id)
        return None if job is None or job.view.running else job

    def start(self, job: Job) -> None:
        """A task has it."""
        self._show(job, job_view(job.view, running=True, started=True))

    def take_back(self, job: Job, pending: tuple[str, ...], steps_done: int, node: str) -> None:
        """Its task ended on `node`, or was lost, with `pending` still to run."""
        self._clock.changed = True
        view = job_view(job.view, running=False, pending=pending, steps_done=steps_done, node=node)
        self._show(job, view)

    def shorten(self, job: Job, steps: int) -> None:
        self._show(job, job_view(job.view, steps=steps))

    def end(self, job: Job, outcome: Outcome) -> None:
        """What is not to be finished late and was all the same is dropped."""
        self._clock.changed = True
        if outcome is Outcome.DONE:
            job.ended_s = self._clock.now_s
            if job.view.drop_if_late and not job.is_on_time:
                job.ended_s, outcome = None, Outcome.DROPPED
        job.outcome = outcome
        del self._open[job.view.job_id], self.views[job.view.job_id]
        if self.on_end is not None:
            self.on_end(job)

    def refuse_all(self, outcome: Outcome) -> None:
        """Every job ends so when it arrives. Instead of a simulation."""
        for arrival in self._arrivals[len(self.jobs) :]:
            self._clock.now_s = arrival.at_s
            self._arrive(arrival, 0)
            self.end(self.jobs[-1], outcome)

    def _show(self, job: Job, view: JobView) -> None:
        job.view = self.views[view.job_id] = view

    def _arrive(self, arrival: Arrival, _: int) -> None:
        self._clock.changed = True
        view = JobView(
            job_id=f"job-{len(self.jobs)}",
            model=arrival.model,
            shape=arrival.shape,
            steps=arrival.steps,
            pending=self._models[arrival.model].stages,
            arrived_s=arrival.at_s,
            deadline_s=arrival.at_s + arrival.slo_s,
            drop_if_late=self._drop_if_late,
        )
        job = Job(arrival, view)
        self.jobs.append(job)
        self._open[view.job_id] = job
        self.views[view.job_id] = view
        if self._drop_if_late:
            self._clock.at(view.deadline_s + 2 * ON_TIME_S, self._due, job)
        if len(self.jobs) < len(self._arrivals):
            following = self._arrivals[len(self.jobs)]
            self._clock.at(following.at_s, self._arrive, following)

    def _due(self, job: Job, _: int) -> None:
        if job.view.job_id not in self._open:
            return
        if not job.view.running:
            self.end(job, Outcome.DROPPED)
        elif self.on_due is not None:
            self.on_due(job)
