"""A simulated clock and fleet that feeds `decide` and carries out its effects. No wall clock, no threads.

A worker does one thing at a time in the order asked: loads queue behind a running task. A killed worker loses
all that it held; its job starts again from the stages it had before that task. Effects that no real fleet
could carry out fail an assertion here, so every scenario checks them.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from planner import (
    Effect,
    Evict,
    JobView,
    Load,
    ModelView,
    Observation,
    Placement,
    PlannerConfig,
    PlannerState,
    Run,
    RunningTask,
    Shape,
    StageKey,
    StageSample,
    WakeAt,
    WorkerView,
    decide,
    initial_state,
)

SHAPE = Shape(512, 512)


@dataclass(frozen=True, slots=True)
class Ran:
    """One stage that ended."""

    job_id: str
    stage: str
    worker: str
    started_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Call:
    """One call of `decide`."""

    before: PlannerState
    observation: Observation
    after: PlannerState
    effects: tuple[Effect, ...]


@dataclass(slots=True, eq=False)
class Device:
    """One live worker process. `work` are (seconds, what to do at the end), done one after the other."""

    worker_id: str
    resident: frozenset[StageKey]
    loading: frozenset[StageKey] = frozenset()
    task: RunningTask | None = None
    work: deque[tuple[float, Callable[[float], None]]] = field(default_factory=deque)
    busy: bool = False


class Fleet:
    """`stage_s`: seconds by stage name, may be changed during a run; `load_s`: seconds to load one stage.

    `memory_bytes`: what a worker may hold of the models' weights.
    """

    def __init__(
        self,
        models: Mapping[str, ModelView],
        config: PlannerConfig,
        stage_s: Mapping[str, float],
        load_s: float = 1.0,
        memory_bytes: int | None = None,
    ) -> None:
        self.now_s = 0.0
        self.models = models
        self.stage_s = dict(stage_s)
        self.load_s = load_s
        self.memory_bytes = memory_bytes
        self.state = initial_state(config)
        self.calls: list[Call] = []
        self.ran: list[Ran] = []
        self.finished_s: dict[str, float] = {}
        self.placements: list[Placement] = []
        self._devices: dict[str, Device] = {}
        self._jobs: dict[str, JobView] = {}
        self._samples: list[StageSample] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))

    def start(self, worker_id: str, at_s: float = 0.0, resident: frozenset[StageKey] = frozenset()) -> None:
        """A worker comes up, empty unless told; one that is up already is not started twice."""
        self.at(at_s, lambda: self._come_up(worker_id, resident))

    def kill(self, worker_id: str, at_s: float) -> None:
        """A worker dies, and what it held with it."""
        self.at(at_s, lambda: self._lose(worker_id))

    def submit(
        self, job_id: str, deadline_s: float, at_s: float = 0.0, model: str = "tiny", steps: int = 4
    ) -> None:
        view = JobView(job_id, model, SHAPE, steps, self.models[model].stages, at_s, deadline_s)
        self.at(at_s, lambda: self._jobs.update({job_id: view}))

    def run(self, until_s: float = float("inf")) -> None:
        """Let time pass until nothing is left to happen, or the next thing lies after `until_s`."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s = self._events[0][0]
            while self._events and self._events[0][0] == self.now_s:
                heapq.heappop(self._events)[2]()
            self._decide()

    def resident(self, worker_id: str) -> set[str]:
        return {stage for _, stage in self._devices[worker_id].resident}

    def effects(self, kind: type[Effect]) -> list[tuple[float, Effect]]:
        """All effects of one kind so far, with their times."""
        return [(c.observation.now_s, e) for c in self.calls for e in c.effects if isinstance(e, kind)]

    def _decide(self) -> None:
        observation = Observation(
            now_s=self.now_s,
            jobs=tuple(self._jobs.values()),
            workers=tuple(
                WorkerView(d.worker_id, "node", d.resident, d.loading, d.task, memory_bytes=self.memory_bytes)
                for d in self._devices.values()
            ),
            models=self.models,
            finished=tuple(self._samples),
        )
        self._samples.clear()
        before = self.state
        self.state, effects = decide(before, observation)
        self.calls.append(Call(before, observation, self.state, effects))
        placement = self.state.placement
        if placement is not None and (not self.placements or self.placements[-1] is not placement):
            self.placements.append(placement)
        assert sum(isinstance(effect, WakeAt) for effect in effects) <= 1
        for effect in effects:
            self._carry_out(effect)
        for device in self._devices.values():
            self._next(device)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Run(stages=stages, jobs=(job_id,), workers=(worker,), degree=1):
                self._start_task(self._devices[worker], self._jobs[job_id], stages)
            case Load():
                device = self._devices[effect.worker]
                keys = frozenset((effect.model, stage) for stage in effect.stages)
                assert keys
                assert not keys & (device.resident | device.loading)
                device.loading |= keys
                self._check_memory(device)
                device.work.append((self.load_s * len(keys), lambda _: self._loaded(device, keys)))
            case Evict():
                device = self._devices[effect.worker]
                keys = frozenset((effect.model, stage) for stage in effect.stages)
                assert keys
                assert keys <= device.resident
                assert not keys & self._held_only_by(device), "the last home of a stage was evicted"
                if device.task is not None and device.task.model == effect.model:
                    assert not set(device.task.pending) & set(effect.stages), "evicted under a running task"
                device.resident -= keys
            case WakeAt(at_s=at_s):
                assert at_s > self.now_s, "a wake-up that is due already would be a busy loop"
                self.at(at_s, lambda: None)
            case _:
                raise AssertionError(f"cannot be carried out: {effect}")

    def _check_memory(self, device: Device) -> None:
        weights = sum(
            self.models[model].weight_bytes.get(stage, 0) for model, stage in device.resident | device.loading
        )
        assert self.memory_bytes is None or weights <= self.memory_bytes, "more was asked for than fits"

    def _held_only_by(self, device: Device) -> frozenset[StageKey]:
        """What jobs need, the placement has a home for, and no other worker holds."""
        assert self.state.placement is not None
        others = [other.resident for other in self._devices.values() if other is not device]
        needed = {(job.model, stage) for job in self._jobs.values() for stage in job.pending}
        return device.resident & (needed - self.state.placement.homeless).difference(*others)

    def _start_task(self, device: Device, job: JobView, stages: tuple[str, ...]) -> None:
        assert stages
        assert device.task is None, "a worker was given two tasks"
        assert not job.running, "a job was started twice"
        assert stages == job.pending[: len(stages)], "stages out of order"
        assert {(job.model, stage) for stage in stages} <= device.resident, "a stage was not resident"
        job = replace(job, started=True)
        self._jobs[job.job_id] = replace(job, running=True)
        task_id = f"{job.job_id}:{stages[0]}"
        device.task = RunningTask(task_id, (job.job_id,), job.model, stages, SHAPE, job.steps, 0, self.now_s)
        for stage in stages:
            device.work.append(
                (self.stage_s[stage], lambda began_s: self._stage_ended(device, job, stages, began_s))
            )

    def _stage_ended(self, device: Device, job: JobView, stages: tuple[str, ...], began_s: float) -> None:
        assert device.task is not None
        stage, *later = device.task.pending
        self.ran.append(Ran(job.job_id, stage, device.worker_id, began_s, self.now_s))
        steps = job.steps if stage == self.models[job.model].loop_stage else 1
        self._samples.append(StageSample(job.model, stage, SHAPE, steps, self.now_s - began_s, self.now_s))
        if later:
            device.task = replace(device.task, pending=tuple(later))
            return
        device.task = None
        left = job.pending[len(stages) :]
        if left:
            self._jobs[job.job_id] = replace(job, pending=left, running=False)
        else:
            del self._jobs[job.job_id]
            assert job.job_id not in self.finished_s
            self.finished_s[job.job_id] = self.now_s

    def _loaded(self, device: Device, keys: frozenset[StageKey]) -> None:
        device.loading -= keys
        device.resident |= keys

    def _come_up(self, worker_id: str, resident: frozenset[StageKey]) -> None:
        if worker_id not in self._devices:
            self._devices[worker_id] = Device(worker_id, resident)

    def _lose(self, worker_id: str) -> None:
        device = self._devices.pop(worker_id, None)
        if device is not None and device.task is not None:
            job_id = device.task.job_ids[0]
            self._jobs[job_id] = replace(self._jobs[job_id], running=False)

    def _next(self, device: Device) -> None:
        if device.busy or not device.work:
            return
        seconds, at_the_end = device.work.popleft()
        began_s = self.now_s
        device.busy = True

        def end() -> None:
            if self._devices.get(device.worker_id) is device:
                device.busy = False
                at_the_end(began_s)

        self.at(began_s + seconds, end)
