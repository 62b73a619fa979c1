"""LegoDiffusion: every stage is a node of its own, first come, first served, deeper nodes first.

- *Order*: of the nodes that are ready those deepest in their workflow, then the requests by arrival.
- *Where*: the worker with the least queue + fetch + load-if-cold + run time; fetching is cheap and decides
  between equals. A node waits for a busy worker that has its stage sooner than it has an idle one load for
  longer; what is loaded makes room by evicting what fewest requests wait for.
- *Batches*: nodes of one batch key, shape and place in the loop run together, as many as cost least each by
  the profile.
- *Admission*: `planner.policies.lego_admission`.

Degree 1: the paper runs the branches of classifier-free guidance on two workers, which no profile here has. A
loop is one node and not one for each step: with deeper nodes first a request that runs keeps its worker.

Source: LegoDiffusion (arXiv 2604.08123).
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, replace

from planner.demand import common_device
from planner.outlook import Outlook
from planner.placement import Targets
from planner.policies.floor import Floor, Group
from planner.policies.held import evicted, held, loaded, noted
from planner.policies.lego_admission import rejected_on_arrival
from planner.policies.lego_start import start_targets
from planner.state import PlannerState
from planner.types import (
    Effect,
    JobView,
    Observation,
    Reason,
    Run,
    StageKey,
    WorkerView,
)

MAX_BATCH = 16
"""The most nodes that are ever put together."""


@dataclass(frozen=True, slots=True)
class Lego:
    """What workers are given that hold nothing, by id."""

    start: Targets
    models: frozenset[str]


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """Rejections, then runs, loads and the evictions that make room for them."""
    known = state.forecast.known
    state = noted(state, observation)
    if not observation.workers:
        return state, ()
    own = state.rival
    if (
        not isinstance(own, Lego)
        or own.models != observation.models.keys()
        or any(worker.worker_id not in own.start for worker in observation.workers)
    ):
        own = Lego(start_targets(state.config, state.profile, observation), frozenset(observation.models))
        state = replace(state, rival=own)
    targets = {
        worker.worker_id: worker.resident | worker.loading
        if worker.resident or worker.loading
        else own.start[worker.worker_id]
        for worker in observation.workers
    }
    state = held(state, observation, targets, Reason.NEEDED_NOW)
    rejected = rejected_on_arrival(state.profile, observation, known)
    refused = {reject.job for reject in rejected}
    turn = _Turn(state, observation, refused)
    return state, (*rejected, *turn.effects())


class _Turn:
    """One decision."""

    def __init__(self, state: PlannerState, observation: Observation, refused: set[str]) -> None:
        assert state.placement is not None
        self._placement = state.placement
        self._profile = state.profile
        self._observation = observation
        self._floor = Floor(state.placement.stages, observation)
        self._device = common_device(observation)
        self._views = {worker.worker_id: worker for worker in observation.workers}
        self._refused = refused
        self._waiting: list[JobView] = []
        self._n_waiting: Counter[StageKey] = Counter()
        self._queues: dict[StageKey, list[tuple[float, str]]] = {}
        self._effects: list[Effect] = []

    def effects(self) -> list[Effect]:
        """For every ready node in order, until no worker is idle."""
        self._begin()
        if self._floor.is_empty:
            return self._effects
        models = self._observation.models
        waiting = [
            job
            for job in self._observation.jobs
            if not job.running and job.pending and job.model in models and job.job_id not in self._refused
        ]
        self._waiting = sorted(
            waiting,
            key=lambda job: (-models[job.model].stages.index(job.pending[0]), job.arrived_s, job.job_id),
        )
        self._n_waiting = Counter((job.model, stage) for job in self._waiting for stage in job.pending[:1])
        started: set[str] = set()
        for place, job in enumerate(self._waiting):
            if job.job_id in started:
                continue
            if self._floor.is_empty:
                break
            started |= self._serve(job, place, started)
        return self._effects

    def _begin(self) -> None:
        """Workers that have nothing load what they begin with."""
        for worker in sorted(self._observation.workers, key=lambda worker: worker.worker_id):
            if not worker.resident and not worker.loading and worker.task is None:
                keys = self._placement.stages[worker.worker_id] - worker.failed
                self._effects += loaded(worker, keys, self._observation.models, self._placement)

    def _serve(self, job: JobView, place: int, started: set[str]) -> set[str]:
        """Run its next stage, with others, or load it somewhere; the jobs that have a task now."""
        key = (job.model, job.pending[0])
        group = self._holder(job, key)
        if group is not None:
            node = group.node_for(1, job.node)
            assert node is not None
            (name,) = group.take(node, 1)
            jobs = self._batch(job, place, started)
            self._make_room(self._views[name], key, job)
            self._effects.append(
                Run(
                    stages=(key[1],),
                    jobs=tuple(one.job_id for one in jobs),
                    workers=(name,),
                    reason=Reason.DEEPEST_FIRST,
                )
            )
            return {one.job_id for one in jobs}
        self._wait_or_load(job, key)
        return set()

    def _holder(self, job: JobView, key: StageKey) -> Group | None:
        """Idle workers with that stage: with room for it if there are such, on the job's own node, any."""
        able = [group for group in self._floor.groups if key in group.usable and group.widest]
        if not able:
            return None
        return min(
            able,
            key=lambda group: (
                self._lacks(group.memory_bytes, group.usable, key, job, group.device) > 0,
                not group.idle.get(job.node),
                len(group.usable),
                group.first,
            ),
        )

    def _wait_or_load(self, job: JobView, key: StageKey) -> None:
        """Queue it with the holder that is free first, or load it on an idle one if that is sooner."""
        model = self._observation.models[job.model]
        load_s = model.load_s.get(key[1], 0.0)
        queue = self._queue(key)
        run_s = self._run_s(job)
        if queue and queue[0][0] <= load_s:
            free_s, name = queue[0]
            heapq.heapreplace(queue, (free_s + run_s, name))
            return
        idle = [group for group in self._floor.groups if group.widest and not self._has_failed(group, key)]
        if not idle:
            return
        group = min(
            idle,
            key=lambda group: (
                self._lacks(group.memory_bytes, group.usable | {key}, key, job, group.device) > 0,
                sum(self._n_waiting[held] for held in group.usable),
                group.first,
            ),
        )
        node = group.node_for(1, job.node)
        assert node is not None
        (name,) = group.take(node, 1)
        worker = self._views[name]
        self._make_room(worker, key, job)
        self._effects += loaded(worker, frozenset({key}), self._observation.models, self._placement)
        heapq.heappush(queue, (load_s + run_s, name))

    def _has_failed(self, group: Group, key: StageKey) -> bool:
        return any(key in self._views[name].failed for ids in group.idle.values() for name in ids)

    def _queue(self, key: StageKey) -> list[tuple[float, str]]:
        """In how many seconds each busy worker that has the stage is free, a heap."""
        if key in self._queues:
            return self._queues[key]
        outlook = Outlook(self._profile, self._observation.models, self._observation.now_s)
        queue: list[tuple[float, str]] = []
        for worker in self._observation.workers:
            if key not in worker.resident | worker.loading or (worker.task is None and not worker.loading):
                continue
            seconds = sum(
                self._observation.models[model].load_s.get(stage, 0.0)
                for model, stage in worker.loading
                if model in self._observation.models
            )
            if worker.task is not None:
                progress = outlook.progress(worker.task, worker.device)
                seconds += 0.0 if progress is None else progress.ends_s - self._observation.now_s
            queue.append((seconds, worker.worker_id))
        heapq.heapify(queue)
        self._queues[key] = queue
        return queue

    def _make_room(self, worker: WorkerView, key: StageKey, job: JobView) -> None:
        """Evict until the stage fits: first what fewest wait for, of those what most weigh."""
        models = self._observation.models
        held_keys = worker.resident | {key}
        spare = sorted(
            worker.resident - {key},
            key=lambda one: (self._n_waiting[one], -models[one[0]].weight_bytes.get(one[1], 0), one),
        )
        gone: set[StageKey] = set()
        while spare and self._lacks(worker.memory_bytes, held_keys - gone, key, job, worker.device) > 0:
            gone.add(spare.pop(0))
        self._effects += evicted(worker, frozenset(gone), models, self._placement)

    def _lacks(
        self, bound: int | None, keys: frozenset[StageKey], key: StageKey, job: JobView, device: str
    ) -> int:
        """By how many bytes a worker that holds `keys` is too small to run `key` for that job."""
        if bound is None:
            return 0
        models = self._observation.models
        weights = sum(models[model].weight_bytes.get(s, 0) for model, s in keys if model in models)
        peak = self._profile.peak_bytes(device, models[job.model], key[1], job.shape) or 0
        return weights + peak - bound

    def _batch(self, job: JobView, place: int, started: set[str]) -> list[JobView]:
        """The job and those behind it that are like it, as many as cost least each."""
        if not job.batch_key:
            return [job]
        same = [
            other
            for other in self._waiting[place + 1 :]
            if other.job_id not in started and _alike(other) == _alike(job)
        ]
        view, steps = self._observation.models[job.model], job.steps - job.steps_done
        best, least_s = 1, self._run_s(job)
        for n in range(2, min(len(same) + 1, MAX_BATCH) + 1):
            seconds = self._profile.stage_s(self._device, view, job.pending[0], job.shape, steps, batch=n)
            if seconds is not None and seconds / n < least_s * (1 - 1e-9):
                best, least_s = n, seconds / n
        return [job, *same[: best - 1]]

    def _run_s(self, job: JobView) -> float:
        view, steps = self._observation.models[job.model], job.steps - job.steps_done
        return self._profile.stage_s(self._device, view, job.pending[0], job.shape, steps) or 0.0


def _alike(job: JobView) -> tuple[object, ...]:
    return job.model, job.pending, job.shape, job.steps, job.steps_done, job.batch_key
