"""A fleet with nodes, gangs, pauses and batches on a virtual clock, which carries out what `decide` says.

All stages are resident everywhere unless told otherwise, and nothing dies: `tests.planner.fleet` is for that.
A loop takes whole steps. A pause or a join happens at its next boundary; who joins first runs what comes
before its loop while the others wait. A gang's workers but the first are free when its loop is over. Effects
that no fleet could carry out fail an assertion here.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from planner import (
    Effect,
    Evict,
    JobView,
    Load,
    ModelView,
    Observation,
    Pause,
    PlannerConfig,
    Profile,
    Run,
    RunningTask,
    Shape,
    StageKey,
    WakeAt,
    WorkerView,
    decide,
    initial_state,
)
from planner.measurements import Measurement, Measurements
from planner.types import Degrade, Reject

DEVICE = "gpu"


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of `model`'s stages per shape at degree 1 and batch 1, and of its loop's steps per degree.

    A batch of b takes `1 + (b - 1) * batching` times as long.
    """

    model: ModelView
    once_s: Mapping[str, Mapping[Shape, float]]
    step_s: Mapping[Shape, Mapping[int, float]]
    resume_s: float = 0.04
    batching: float = 1.0
    max_batch: int = 1

    def of(self, stage: str, shape: Shape, degree: int, batch: int) -> float:
        more = 1.0 + (batch - 1) * self.batching
        if stage == self.model.loop_stage:
            return self.step_s[shape][degree] * more
        return self.once_s[stage][shape] * more

    def measured(self, error: float = 1.0) -> Measurements:
        """What a profiler would say, `error` times too much."""
        batches = [2**i for i in range(self.max_batch.bit_length())]
        runs = [
            (stage, shape, degree, batch)
            for shape, by_degree in self.step_s.items()
            for stage in self.model.stages
            for degree in (by_degree if stage == self.model.loop_stage else (1,))
            for batch in (batches if degree == 1 else (1,))
        ]
        return Measurements(
            device=DEVICE,
            model=self.model.model,
            measured=tuple(
                Measurement(
                    stage=stage,
                    shape=shape,
                    degree=degree,
                    batch=batch,
                    seconds=error * self.of(stage, shape, degree, batch),
                )
                for stage, shape, degree, batch in runs
            ),
            resume_s=self.resume_s,
        )


@dataclass(slots=True, eq=False)
class Device:
    view: WorkerView


@dataclass(slots=True, eq=False)
class Work:
    """A task under way. `left` steps of each job that is in the loop, which had taken so many `before`.

    `joining` are let in at the next boundary.
    """

    task: RunningTask
    jobs: list[str]
    left: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    joining: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    step_s: float = 0.0
    began_s: float = 0.0
    version: int = 0


class Cluster:
    """`ended_s`: when each job was done; `rejected`: when it was refused; `degree_of`: of its last loop."""

    def __init__(
        self,
        costs: Mapping[str, Costs],
        config: PlannerConfig,
        n_nodes: int,
        per_node: int = 8,
        *,
        degrees: tuple[int, ...] = (1, 2, 4, 8),
        resident: Mapping[str, frozenset[StageKey]] | None = None,
        profile_error: float = 1.0,
    ) -> None:
        self.now_s = 0.0
        self.costs = costs
        profile = Profile()
        for each in costs.values():
            profile = profile.with_measured(each.measured(profile_error))
        self.state = initial_state(config, profile)
        self.models = {name: each.model for name, each in costs.items()}
        every = frozenset((name, stage) for name, view in self.models.items() for stage in view.stages)
        self.devices: dict[str, Device] = {}
        for node, place in itertools.product(range(n_nodes), range(per_node)):
            name = f"n{node:03}w{place}"
            held = every if resident is None else resident[name]
            self.devices[name] = Device(WorkerView(name, f"n{node:03}", held, device=DEVICE, degrees=degrees))
        self.jobs: dict[str, JobView] = {}
        self.work: dict[str, Work] = {}
        self.ended_s: dict[str, float] = {}
        self.rejected: dict[str, float] = {}
        self.effects: list[tuple[float, Effect]] = []
        self.calls: list[tuple[Observation, tuple[Effect, ...]]] = []
        self.keep_calls = True
        self.n_decisions = 0
        self.gpu_s = 0.0
        self.on_decided: Callable[[Observation, tuple[Effect, ...]], None] = lambda seen, effects: None
        self.decide = decide
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake_s = -1.0

    def at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))

    def submit(self, job: JobView) -> None:
        self.at(job.arrived_s, lambda: self.jobs.update({job.job_id: job}))

    def run(self, until_s: float = float("inf")) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now_s = self._events[0][0]
            while self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
            self.turn()

    def turn(self) -> None:
        """One decision and its effects."""
        seen = Observation(
            self.now_s,
            tuple(self.jobs.values()),
            tuple(device.view for device in self.devices.values()),
            self.models,
        )
        self.state, effects = self.decide(self.state, seen)
        self.n_decisions += 1
        if self.keep_calls:
            self.calls.append((seen, effects))
        self.on_decided(seen, effects)
        for effect in effects:
            self.effects.append((self.now_s, effect))
            self._carry_out(effect)

    def of_kind(self, kind: type[Effect]) -> list[Effect]:
        return [effect for _, effect in self.effects if isinstance(effect, kind)]

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Run():
                self._join(effect) if effect.joins else self._start(effect)
            case Pause():
                self._pause(effect)
            case Reject():
                assert not self.jobs[effect.job].running
                del self.jobs[effect.job]
                assert effect.job not in self.rejected
                self.rejected[effect.job] = self.now_s
            case Degrade():
                job = self.jobs[effect.job]
                assert not job.running
                assert job.least_steps is not None
                assert job.least_steps <= effect.steps < job.steps
                self.jobs[effect.job] = replace(job, steps=effect.steps)
            case WakeAt(at_s=at_s):
                assert at_s > self.now_s
                if not self.now_s < self._wake_s <= at_s:
                    self._wake_s = at_s
                    self.at(at_s, lambda: None)
            case Load() | Evict():
                raise AssertionError(f"nothing is to be moved here: {effect}")

    def _start(self, run: Run) -> None:
        jobs = [self.jobs[name] for name in run.jobs]
        views = [self.devices[name].view for name in run.workers]
        assert run.stages
        assert run.degree == len(set(run.workers)) == len(run.workers)
        assert all(view.task is None for view in views), "a worker was given two tasks"
        assert len({view.node for view in views}) == 1, "a gang of two nodes"
        assert all(run.degree in view.degrees for view in views)
        model = self.models[jobs[0].model]
        loop = {(model.model, stage) for stage in run.stages if stage == model.loop_stage}
        assert {(model.model, stage) for stage in run.stages} <= views[0].resident
        assert all(loop <= view.resident for view in views)
        assert len(jobs) == 1 or run.degree == 1
        assert run.degree == 1 or loop
        for job in jobs:
            assert not job.running, "a job was started twice"
            assert job.pending[: len(run.stages)] == run.stages
            assert job.model == jobs[0].model
            self.jobs[job.job_id] = replace(job, running=True, started=True)
        first = jobs[0]
        task = RunningTask(
            f"{first.job_id}@{self.now_s:.3f}",
            run.jobs,
            first.model,
            run.stages,
            first.shape,
            first.steps,
            first.steps_done,
            self.now_s,
            can_pause=bool(loop),
            workers=run.workers,
            since_s=self.now_s,
            steps_before=first.steps_done,
        )
        work = Work(task, list(run.jobs))
        self.work[run.workers[0]] = work
        self._show(work)
        self._next_stage(work)

    def _join(self, run: Run) -> None:
        (name,), (worker,) = run.jobs, run.workers
        job, work = self.jobs[name], self.work[worker]
        assert run.joins in work.jobs
        assert work.task.pending[0] == self.models[job.model].loop_stage, "its loop has not begun"
        assert not work.task.pausing
        assert not job.running
        assert job.shape == work.task.shape
        assert {(job.model, stage) for stage in run.stages} <= self.devices[worker].view.resident
        self.jobs[name] = replace(job, running=True, started=True)
        work.joining.append((name, run.stages))
        self._set(work, job_ids=(*work.task.job_ids, name))
        if len(work.joining) == 1:
            self._cut(work)

    def _pause(self, effect: Pause) -> None:
        work = self.work[effect.worker]
        assert effect.job in work.jobs
        assert work.task.can_pause
        assert not work.task.pausing
        self._set(work, pausing=True)
        if work.left:
            self._cut(work)

    def _next_stage(self, work: Work) -> None:
        """The next stage of all jobs begins, or the task is over."""
        costs = self.costs[work.task.model]
        if not work.task.pending:
            self._end(work)
            return
        stage = work.task.pending[0]
        self._set(work, since_s=self.now_s)
        if stage != costs.model.loop_stage:
            seconds = costs.of(stage, work.task.shape, 1, len(work.jobs))
            self.gpu_s += seconds
            self._later(work, seconds, lambda: self._stage_ended(work))
            return
        work.left = {name: self.jobs[name].steps - self.jobs[name].steps_done for name in work.jobs}
        work.before = {name: self.jobs[name].steps_done for name in work.jobs}
        resumed = any(work.before.values())
        delay_s = costs.resume_s if resumed else 0.0
        self.gpu_s += delay_s * work.task.degree
        self._later(work, delay_s, lambda: self._loop(work))

    def _stage_ended(self, work: Work) -> None:
        self._set(work, pending=work.task.pending[1:])
        for name in work.jobs:
            self.jobs[name] = replace(self.jobs[name], pending=self.jobs[name].pending[1:])
        self._next_stage(work)

    def _loop(self, work: Work) -> None:
        """Steps until the first job of the batch is through."""
        costs = self.costs[work.task.model]
        work.step_s = costs.of(costs.model.loop_stage, work.task.shape, work.task.degree, len(work.left))
        work.began_s = self.now_s
        steps = min(work.left.values())
        first = work.jobs[0]
        all_steps = self.jobs[first].steps
        self._set(
            work,
            since_s=self.now_s,
            steps=all_steps,
            steps_done=all_steps - work.left[first],
            steps_before=work.before[first],
        )
        self._later(work, steps * work.step_s, lambda: self._stepped(work, steps))
        if work.task.pausing or work.joining:
            self._cut(work)

    def _cut(self, work: Work) -> None:
        """Look up at the next boundary instead of when a job is through."""
        if not work.left or not work.step_s:
            return
        n = math.floor((self.now_s - work.began_s) / work.step_s + 1e-9) + 1
        n = min(n, *work.left.values())
        at_s = work.began_s + n * work.step_s
        self._later(work, max(0.0, at_s - self.now_s), lambda: self._stepped(work, n))

    def _stepped(self, work: Work, n: int) -> None:
        self.gpu_s += n * work.step_s * work.task.degree
        work.left = {name: left - n for name, left in work.left.items()}
        work.step_s = 0.0
        through = [name for name, left in work.left.items() if left == 0]
        if through:
            self._through(work, through)
        elif work.task.pausing:
            self._leave(work)
        elif work.joining:
            self._let_in(work)
        else:
            self._loop(work)

    def _through(self, work: Work, through: list[str]) -> None:
        """These are behind their loop: alone in the task they go on with it, else the others wait."""
        costs = self.costs[work.task.model]
        if len(through) == len(work.left) and not work.joining:
            work.left = {}
            first = work.task.workers[0]
            for other in work.task.workers[1:]:
                self._free(other)
            self._set(work, workers=(first,), can_pause=False)
            self._stage_ended(work)
            return
        seconds = 0.0
        for stage in work.task.pending[1:]:
            seconds += costs.of(stage, work.task.shape, 1, 1) * len(through)
        self.gpu_s += seconds

        def out() -> None:
            for name in through:
                job = self.jobs[name]
                self.jobs[name] = replace(job, pending=job.pending[len(work.task.pending) :], running=False)
                self._done(name)
                work.jobs.remove(name)
                del work.left[name]
            self._set(work, job_ids=tuple(name for name in work.task.job_ids if name not in through))
            if work.left:
                self._let_in(work) if work.joining else self._loop(work)
            else:
                self._let_in(work)

        self._later(work, seconds, out)

    def _let_in(self, work: Work) -> None:
        costs = self.costs[work.task.model]
        joining, work.joining = work.joining, []
        seconds = 0.0
        for name, stages in joining:
            loop = stages.index(costs.model.loop_stage)
            seconds += sum(costs.of(stage, work.task.shape, 1, 1) for stage in stages[:loop])
            job = self.jobs[name]
            seconds += costs.resume_s if job.steps_done else 0.0
            self.jobs[name] = replace(job, pending=job.pending[loop:])
            work.jobs.append(name)
            work.left[name] = job.steps - job.steps_done
            work.before[name] = job.steps_done
        self.gpu_s += seconds
        self._later(work, seconds, lambda: self._loop(work))

    def _leave(self, work: Work) -> None:
        (name,) = work.jobs
        job = self.jobs[name]
        node = self.devices[work.task.workers[0]].view.node
        self.jobs[name] = replace(job, running=False, steps_done=job.steps - work.left[name], node=node)
        assert self.jobs[name].steps_done > work.before[name], "no step was made between two pauses"
        self._release(work)

    def _end(self, work: Work) -> None:
        node = self.devices[work.task.workers[0]].view.node
        for name in work.jobs:
            self.jobs[name] = replace(self.jobs[name], running=False, node=node)
            self._done(name)
        self._release(work)

    def _done(self, name: str) -> None:
        if not self.jobs[name].pending:
            assert name not in self.ended_s
            self.ended_s[name] = self.now_s
            del self.jobs[name]

    def _release(self, work: Work) -> None:
        del self.work[work.task.workers[0]]
        work.version += 1
        for worker in work.task.workers:
            self._free(worker)

    def _free(self, worker: str) -> None:
        self.devices[worker].view = replace(self.devices[worker].view, task=None)

    def _set(self, work: Work, **changes: object) -> None:
        work.task = replace(work.task, **changes)  # type: ignore[arg-type]
        self._show(work)

    def _show(self, work: Work) -> None:
        for worker in work.task.workers:
            self.devices[worker].view = replace(self.devices[worker].view, task=work.task)

    def _later(self, work: Work, seconds: float, what: Callable[[], None]) -> None:
        """The next thing to happen to that task: what was to happen before will not."""
        work.version += 1
        version = work.version

        def event() -> None:
            if work.version == version:
                what()

        self.at(self.now_s + seconds, event)
