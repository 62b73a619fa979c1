"""The workers as dispatch sees them: alike ones together, the idle among them by node.

Workers are alike that hold and are to hold the same stages, have one device kind, offer the same degrees,
and wait for a load or do not. So a decision looks at a handful of classes instead of a thousand workers, and
finds the node whose idle workers fit best in constant time.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from planner.outlook import Kind, Outlook
from planner.placement import Targets
from planner.types import JobView, Observation, Shape, StageKey, WorkerView


@dataclass(slots=True, eq=False)
class WorkerClass:
    """Workers that are alike. `usable`: the stages that they may run. `idle`: node -> ids, lowest last."""

    place: int
    kind: Kind
    usable: frozenset[StageKey]
    held_up: bool
    room_bytes: int | None
    members: list[WorkerView] = field(default_factory=list)
    idle: dict[str, list[str]] = field(default_factory=dict)
    n_idle: int = 0
    _by_count: list[list[str]] = field(default_factory=list)

    def index(self) -> None:
        """Once all idle ones are in `idle`, unsorted."""
        widest = max(map(len, self.idle.values()), default=0)
        self._by_count = [[] for _ in range(widest + 1)]
        for node, ids in self.idle.items():
            ids.sort(reverse=True)
            self._by_count[len(ids)].append(node)
        for nodes in self._by_count:
            heapq.heapify(nodes)

    def best_fit(self, n: int) -> str | None:
        """The node with the fewest idle ones of those that have `n`, then by name."""
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
        heapq.heappush(self._by_count[len(ids)], node)
        return taken


@dataclass(frozen=True, slots=True)
class Option:
    """A class that can run the next `n_merged` stages of a job as one task."""

    workers: WorkerClass
    n_merged: int


class Pool:
    """All workers in classes. Whoever takes idle ones from it means to start something on them."""

    def __init__(self, targets: Targets, observation: Observation, outlook: Outlook) -> None:
        self._outlook = outlook
        alike: dict[object, list[WorkerView]] = {}
        widths: dict[tuple[str, str], int] = {}
        for worker in observation.workers:
            target = targets[worker.worker_id]
            key = (
                worker.device,
                worker.degrees,
                worker.resident,
                target,
                worker.occupied or bool(worker.loading),
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
        self.classes: list[WorkerClass] = []
        self._options: dict[tuple[str, tuple[str, ...], Shape | None], list[Option]] = {}
        self._known_mates: dict[tuple[int, StageKey], list[WorkerClass]] = {}
        # observations name workers in any order
        for place, members in enumerate(sorted(alike.values(), key=lambda them: min(map(_id, them)))):
            first = members[0]
            target = targets[first.worker_id]
            usable = frozenset(key for key in first.resident if key in target or key not in homes)
            made = WorkerClass(
                place,
                (first.device, tuple(each for each in first.degrees if each <= widest[first.device])),
                usable,
                first.is_held_up,
                _room_bytes(first, observation),
                members,
            )
            for worker in members:
                if worker.task is None:
                    made.idle.setdefault(worker.node, []).append(worker.worker_id)
                    made.n_idle += 1
            made.index()
            self.classes.append(made)
        self._unhindered = {key for each in self.classes if not each.held_up for key in each.usable}
        self._is_bounded = any(each.room_bytes is not None for each in self.classes)
        self.kinds = tuple(dict.fromkeys(each.kind for each in self.classes))

    @property
    def n_idle(self) -> int:
        """How many are idle and may be given a task."""
        return sum(each.n_idle for each in self.classes)

    @property
    def n_workers(self) -> int:
        return sum(len(each.members) for each in self.classes)

    def options(self, job: JobView) -> list[Option]:
        """Who, idle or not, can run the job's next stage: most stages as one task, then fewest others.

        A run would queue behind a load, which may take minutes, so a worker that is held up counts only if no
        other one has the stage. The same goes for a worker without the memory that a stage is known to need.
        """
        key = (job.model, job.pending, job.shape if self._is_bounded else None)
        known = self._options.get(key)
        if known is None:
            known = self._options[key] = self._options_of(job)
        return known

    def fitting_node(self, option: Option, n: int, own_node: str, loop: StageKey | None) -> str | None:
        """The node for `n` workers, the first of the option's class: `own_node`, or that which fits best.

        The others need only `loop`; with one it is their own class's if that is enough.
        """
        first = option.workers
        if n == 1 or loop is None or not self._mates(first, loop):
            if own_node and len(first.idle.get(own_node, ())) >= n:
                return own_node
            return first.best_fit(n)
        best = None
        mates = (first, *self._mates(first, loop))
        for node, ids in first.idle.items():
            free = sum(len(each.idle.get(node, ())) for each in mates)
            if ids and free >= n:
                best = min(best or (True, free, node), (node != own_node, free, node))
        return best and best[2]

    def take(self, option: Option, node: str, n: int, loop: StageKey | None) -> tuple[str, ...]:
        """`n` idle workers of `node`: the first of the option's class, the others with few stages."""
        taken = option.workers.take(node, 1)
        if n > 1 and loop is not None:
            taken += self.more(option.workers, node, n - 1, loop)
        return tuple(taken)

    def more(self, first: WorkerClass, node: str, n: int, loop: StageKey) -> list[str]:
        """`n` further idle workers of `node` for a gang whose first is of that class."""
        taken: list[str] = []
        for each in self.gang_classes(first, loop):
            n_here = min(n - len(taken), len(each.idle.get(node, ())))
            if n_here:
                taken += each.take(node, n_here)
        return taken

    def n_free(self, first: WorkerClass, node: str, loop: StageKey) -> int:
        """How many idle workers of `node` could be in a gang whose first is of that class."""
        return sum(len(each.idle.get(node, ())) for each in (first, *self._mates(first, loop)))

    def has_idle(self, node: str) -> bool:
        """Whether any worker of `node` is idle."""
        return any(each.idle.get(node) for each in self.classes)

    def gang_classes(self, first: WorkerClass, loop: StageKey) -> list[WorkerClass]:
        """The classes that could be in a gang whose first is of that class, fewest stages first."""
        return sorted((first, *self._mates(first, loop)), key=lambda each: (len(each.usable), each.place))

    def fits(self, job: JobView, stages: tuple[str, ...], workers: WorkerClass, batch: int = 1) -> bool:
        """Whether `stages` are not known to need more memory than such a worker has beside its weights."""
        view = self._outlook.view(job.model)
        if workers.room_bytes is None or view is None:
            return True
        peak_bytes = self._outlook.profile.peak_bytes
        device = workers.kind[0]
        needs = (peak_bytes(device, view, stage, job.shape, batch=batch) for stage in stages)
        return all(need is None or need <= workers.room_bytes for need in needs)

    def _mates(self, first: WorkerClass, loop: StageKey) -> list[WorkerClass]:
        key = (first.place, loop)
        if key not in self._known_mates:
            self._known_mates[key] = [
                each
                for each in self.classes
                if each is not first and each.kind == first.kind and loop in each.usable and not each.held_up
            ]
        return self._known_mates[key]

    def _options_of(self, job: JobView) -> list[Option]:
        if not job.pending:
            return []
        can_wait = (job.model, job.pending[0]) in self._unhindered
        able = [
            (each, n)
            for each in self.classes
            if not (can_wait and each.held_up) and (n := self._n_merged(job, each))
        ]
        with_room = [(each, n_fit) for each, n in able if (n_fit := self._n_fitting(job, each, n))]
        options = [Option(each, n) for each, n in with_room or able]
        options.sort(key=lambda option: (-option.n_merged, len(option.workers.usable), option.workers.place))
        return options

    def _n_merged(self, job: JobView, workers: WorkerClass) -> int:
        """How many of the job's next stages such a worker can run in one task."""
        n = 0
        while n < len(job.pending) and (job.model, job.pending[n]) in workers.usable:
            n += 1
        return n

    def _n_fitting(self, job: JobView, workers: WorkerClass, n_merged: int) -> int:
        """How many of those `n_merged` it has the memory for."""
        if workers.room_bytes is None:
            return n_merged
        fitting = 0
        while fitting < n_merged and self.fits(job, job.pending[fitting : fitting + 1], workers):
            fitting += 1
        return fitting


def _room_bytes(worker: WorkerView, observation: Observation) -> int | None:
    """What is left beside the weights that it holds; None without a bound."""
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
