"""The workers in classes, kept from one decision to the next: most decisions see one or two of them changed.

Workers are alike that hold and are to hold the same stages, have one device kind, offer the same degrees,
and wait for a load or do not. So a decision looks at a handful of classes instead of a thousand workers.

All of it follows from what was seen last. Who got or lost a task is moved; any other change, and workers in
another order, make it anew. So it saves time and changes no decision.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.outlook import Kind, Known, Outlook, Progress
from planner.placement import Targets
from planner.profile import Profile
from planner.types import JobView, ModelView, Observation, RunningTask, StageKey, WorkerView


@dataclass(slots=True, eq=False)
class WorkerClass:
    """Workers that are alike. `usable`: the stages that they may run. `room_bytes`: what is left beside the
    weights that each holds, None without a bound.

    `idle`: node -> ids, lowest last, of those that this decision did not take yet.
    """

    place: int
    kind: Kind
    usable: frozenset[StageKey]
    held_up: bool
    is_settled: bool
    room_bytes: int | None
    n_members: int
    idle: dict[str, list[str]] = field(default_factory=dict)
    n_idle: int = 0
    _free: dict[str, list[str]] = field(default_factory=dict)
    _n_free: int = 0
    _is_touched: bool = False
    _by_count: list[list[str]] | None = None

    def best_fit(self, n: int) -> str | None:
        """The node with the fewest idle ones of those that have `n`, then by name."""
        if self._by_count is None:
            self._by_count = self._indexed()
        for count in range(n, len(self._by_count)):
            nodes = self._by_count[count]
            while nodes:
                # entries are not taken out when a node's count changes
                if len(self.idle[nodes[0]]) == count:
                    return nodes[0]
                heapq.heappop(nodes)
        return None

    def take(self, node: str, n: int) -> list[str]:
        """`n` idle ones of `node`, which are idle no more."""
        ids = self.idle[node]
        taken = [ids.pop() for _ in range(n)]
        self.n_idle -= n
        self._is_touched = True
        if self._by_count is not None:
            heapq.heappush(self._by_count[len(ids)], node)
        return taken

    def renew(self) -> None:
        """For the next decision, nobody was taken."""
        if self._is_touched:
            self.idle = {node: list(ids) for node, ids in self._free.items()}
            self.n_idle = self._n_free
            self._by_count = None
            self._is_touched = False

    def came_free(self, worker: WorkerView) -> None:
        """Was seen to be idle. Takes effect with `renew`."""
        ids = self._free.setdefault(worker.node, [])
        ids.append(worker.worker_id)
        ids.sort(reverse=True)
        self._n_free += 1
        self._is_touched = True

    def got_busy(self, worker: WorkerView) -> None:
        """Was seen to be idle no more. Takes effect with `renew`."""
        ids = self._free[worker.node]
        ids.remove(worker.worker_id)
        if not ids:
            del self._free[worker.node]
        self._n_free -= 1
        self._is_touched = True

    def _indexed(self) -> list[list[str]]:
        by_count: list[list[str]] = [[] for _ in range(max(map(len, self.idle.values()), default=0) + 1)]
        for node, ids in self.idle.items():
            by_count[len(ids)].append(node)
        for nodes in by_count:
            heapq.heapify(nodes)
        return by_count


@dataclass(slots=True, eq=False)
class Moment:
    """What running tasks are judged by: the outlook of this decision and its jobs."""

    outlook: Outlook
    jobs: tuple[JobView, ...]
    _views: dict[str, JobView] | None = None

    @property
    def views(self) -> Mapping[str, JobView]:
        """The jobs that tasks have, by id."""
        if self._views is None:
            self._views = {job.job_id: job for job in self.jobs if job.running}
        return self._views


@dataclass(slots=True, eq=False)
class Running:
    """A task that workers of `node` have, `worker`, the first of them, of class `workers`."""

    task: RunningTask
    worker: str
    node: str
    workers: WorkerClass
    _roster: Roster
    _progress: Progress | None = None
    _judged: Moment | None = None
    _stages_s: Mapping[str, float | None] = field(default_factory=dict)
    _known: Known | None = None

    @property
    def jobs(self) -> tuple[JobView, ...]:
        """Those of its jobs that are still wanted."""
        views = self._roster.moment.views
        return tuple(views[name] for name in self.task.job_ids if name in views)

    @property
    def progress(self) -> Progress | None:
        """How far it is; None if that is not known. Worked out when asked: most decisions ask of few."""
        moment = self._roster.moment
        if self._judged is not moment:
            outlook, device = moment.outlook, self.workers.kind[0]
            if self._known is not outlook.known:
                self._stages_s = outlook.running_s(self.task, device)
                self._known = outlook.known
            self._progress = outlook.progress(self.task, device, self._stages_s)
            self._judged = moment
        return self._progress

    def renew(self, task: RunningTask) -> None:
        """More was heard of it, or it is another one."""
        self.task = task
        self._judged = self._known = None


class Roster:
    """`classes` in the order of their lowest ids. `running`: by the first worker of each task.

    `homes`: the stages that a worker has and is to have. `is_settled`: no worker is to load or to drop
    anything. `moment` is set by whoever asks how far running tasks are.
    """

    def __init__(self) -> None:
        self.classes: list[WorkerClass] = []
        self.kinds: tuple[Kind, ...] = ()
        self.is_settled = True
        self.moment = Moment(Outlook(Profile(), {}, 0.0), ())
        self._running: dict[str, Running] = {}
        self._in_order: list[Running] | None = []
        self._of: list[WorkerClass] = []
        self._workers: tuple[WorkerView, ...] = ()
        self._targets: Targets = {}
        self._models: Mapping[str, ModelView] = {}

    def see(self, targets: Targets, observation: Observation) -> None:
        """From now on it is about these workers, each of which has a target, and nobody was taken."""
        if not self._moved(targets, observation):
            self._anew(targets, observation)
        self._workers, self._targets = observation.workers, targets
        self._models = observation.models
        for each in self.classes:
            each.renew()

    @property
    def n_workers(self) -> int:
        return len(self._workers)

    @property
    def running(self) -> list[Running]:
        """The tasks that workers have, each once, by worker."""
        if self._in_order is None:
            self._in_order = [self._running[name] for name in sorted(self._running)]
        return self._in_order

    def _moved(self, targets: Targets, observation: Observation) -> bool:
        """Whether nothing changed but who has which task. That is noted then."""
        before, now = self._workers, observation.workers
        if before is now and targets is self._targets and observation.models is self._models:
            return True
        if len(before) != len(now) or targets is not self._targets:
            return False
        if observation.models is not self._models and observation.models != self._models:
            return False
        changed = [place for place, worker in enumerate(now) if worker is not before[place]]
        if not all(_is_alike(before[place], now[place]) for place in changed):
            return False
        for place in changed:
            self._note(before[place], now[place], self._of[place])
        return True

    def _note(self, before: WorkerView, now: WorkerView, workers: WorkerClass) -> None:
        if before.task is now.task:
            return
        was_first = before.task is not None and _is_first(before, before.task)
        if was_first and now.task is not None and _is_first(now, now.task):
            self._running[now.worker_id].renew(now.task)
            return
        if now.task is None:
            workers.came_free(now)
        elif before.task is None:
            workers.got_busy(now)
        if was_first:
            del self._running[before.worker_id]
        self._run(now, workers)
        self._in_order = None

    def _run(self, worker: WorkerView, workers: WorkerClass) -> None:
        task = worker.task
        if task is not None and _is_first(worker, task):
            self._running[worker.worker_id] = Running(task, worker.worker_id, worker.node, workers, self)

    def _anew(self, targets: Targets, observation: Observation) -> None:
        alike: dict[object, list[WorkerView]] = {}
        widths: dict[tuple[str, str], int] = {}
        for worker in observation.workers:
            key = (
                worker.device,
                worker.degrees,
                worker.resident,
                worker.loading,
                targets[worker.worker_id],
                worker.is_held_up,
                worker.memory_bytes,
            )
            if key in alike:
                alike[key].append(worker)
            else:
                alike[key] = [worker]
            widths[worker.device, worker.node] = widths.get((worker.device, worker.node), 0) + 1
        widest: dict[str, int] = {}
        for (device, _), n in widths.items():
            widest[device] = max(n, widest.get(device, 0))
        homes: set[StageKey] = set()
        for members in alike.values():
            homes |= members[0].resident & targets[members[0].worker_id]
        self.classes = []
        self._running = {}
        of: dict[str, WorkerClass] = {}
        # observations name workers in any order
        for place, members in enumerate(sorted(alike.values(), key=lambda them: min(map(_id, them)))):
            first = members[0]
            target = targets[first.worker_id]
            made = WorkerClass(
                place,
                (first.device, tuple(each for each in first.degrees if each <= widest[first.device])),
                frozenset(key for key in first.resident if key in target or key not in homes),
                first.is_held_up,
                target in (first.resident, first.resident | first.loading),
                _room_bytes(first, observation),
                len(members),
            )
            for worker in members:
                of[worker.worker_id] = made
                if worker.task is None:
                    made.came_free(worker)
                else:
                    self._run(worker, made)
            self.classes.append(made)
        self._of = [of[worker.worker_id] for worker in observation.workers]
        self._in_order = None
        self.is_settled = all(each.is_settled for each in self.classes)
        self.kinds = tuple(dict.fromkeys(each.kind for each in self.classes))


def _is_alike(before: WorkerView, now: WorkerView) -> bool:
    """Whether they may differ by their tasks alone."""
    return (
        before.worker_id == now.worker_id
        and before.node == now.node
        and (before.resident is now.resident or before.resident == now.resident)
        and (before.loading is now.loading or before.loading == now.loading)
        and before.occupied == now.occupied
        and before.device == now.device
        and before.memory_bytes == now.memory_bytes
        and before.degrees == now.degrees
    )


def _is_first(worker: WorkerView, task: RunningTask) -> bool:
    return not task.workers or task.workers[0] == worker.worker_id


def _room_bytes(worker: WorkerView, observation: Observation) -> int | None:
    if worker.memory_bytes is None:
        return None
    held = sum(
        observation.models[model].weight_bytes.get(stage, 0)
        for model, stage in worker.resident | worker.loading
        if model in observation.models
    )
    return worker.memory_bytes - held


def _id(worker: WorkerView) -> str:
    return worker.worker_id
