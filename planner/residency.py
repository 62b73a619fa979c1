"""From a placement to loads and evictions, without a pause.

A worker takes a load behind its running task and takes no task behind the load until it has ended, which may
be minutes. So what is missing is loaded in idle time, and at once only where a job waits for it and no idle
worker has it, or where nobody has it at all. However many have something to load, half of a stage's workers
stay ready.

Weights go when room is needed for what is planned there, or when nothing planned needs them; never those
that a running task needs, and never a stage's last home while a job needs it, unless the placement gives that
stage no home. On a worker with a bound on its memory a load comes when there is room for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from planner.placement import Placement, Targets
from planner.rooms import Sizes
from planner.types import Evict, Load, Observation, StageKey, WorkerView

Moves = list[Load | Evict]


def urgent_moves(placement: Placement, observation: Observation, sizes: Sizes) -> Moves:
    """Loads that do not wait for idle time, and the evictions that make room for them, in order.

    For before the runs of the same decision, which then go by `carried_out`.
    """
    moving = _Moving(placement, observation, sizes)
    waiting = Counter(
        (job.model, job.pending[0]) for job in observation.jobs if not job.running and job.pending
    )
    for worker in sorted(moving.wanting, key=lambda worker: (worker.task is not None, worker.worker_id)):
        missing = moving.missing(worker)
        models = {
            key[0]
            for key in missing
            if moving.n_loading[key] == 0 == moving.n_homes[key]
            or (key not in moving.idle and moving.n_loading[key] < waiting[key])
        }
        if models:
            moving.load(worker, frozenset(key for key in missing if key[0] in models))
    return moving.moves


def idle_moves(
    placement: Placement, observation: Observation, sizes: Sizes, started: Collection[str] = ()
) -> Moves:
    """Loads of all else on workers that have nothing to do, then evictions of what has no place any more.

    For after the runs, which `started` are the workers of.
    """
    moving = _Moving(placement, observation, sizes)
    for worker in moving.wanting:
        if worker.task is None and worker.worker_id not in started:
            moving.load(worker, moving.missing(worker))
    for worker in moving.wanting:
        if worker.worker_id not in started:
            moving.drop_unplaced(worker)
    return moving.moves


def carried_out(observation: Observation, moves: Iterable[Load | Evict]) -> Observation:
    """What is seen once `moves` were asked for."""
    views = {worker.worker_id: worker for worker in observation.workers}
    for move in moves:
        keys = frozenset((move.model, stage) for stage in move.stages)
        view = views[move.worker]
        if isinstance(move, Load):
            views[move.worker] = replace(view, loading=view.loading | keys)
        else:
            views[move.worker] = replace(view, resident=view.resident - keys)
    same = all(views[worker.worker_id] is worker for worker in observation.workers)
    return observation if same else replace(observation, workers=tuple(views.values()))


def homes_of(targets: Targets, workers: Iterable[WorkerView]) -> frozenset[StageKey]:
    """The stages that are resident on at least one worker whose target holds them."""
    return frozenset(key for worker in workers for key in worker.resident & targets[worker.worker_id])


@dataclass(slots=True, eq=False)
class _Moving:
    """The moves of one decision, and what is so once they were asked for.

    `wanting`: workers that are to load or to drop something, by id. `n_homes`: workers that have a stage
    and are to have it, `n_ready` those of them that no load holds up. `idle`: stages that an idle worker is
    to run. `needed` by a job, `placed` on some worker.
    """

    placement: Placement
    observation: Observation
    sizes: Sizes
    moves: Moves = field(default_factory=list)
    wanting: list[WorkerView] = field(init=False)
    idle: set[StageKey] = field(init=False)
    n_homes: Counter[StageKey] = field(init=False)
    n_ready: Counter[StageKey] = field(init=False)
    n_loading: Counter[StageKey] = field(init=False)
    resident: dict[str, frozenset[StageKey]] = field(init=False)
    loading: dict[str, frozenset[StageKey]] = field(init=False)
    needed: frozenset[StageKey] = field(init=False)
    placed: frozenset[StageKey] = field(init=False)

    def __post_init__(self) -> None:
        targets, workers = self.placement.stages, self.observation.workers
        self.idle, self.n_homes, self.n_ready, self.n_loading = set(), Counter(), Counter(), Counter()
        self.wanting = sorted(
            (w for w in workers if not _is_on_its_way(w, targets[w.worker_id])),
            key=lambda worker: worker.worker_id,
        )
        self.resident = {worker.worker_id: worker.resident for worker in self.wanting}
        self.loading = {worker.worker_id: worker.loading for worker in self.wanting}
        self.needed = self.placed = frozenset()
        if not self.wanting:
            return
        self.needed = frozenset((job.model, stage) for job in self.observation.jobs for stage in job.pending)
        self.placed = frozenset().union(*set(targets.values()))
        for worker in workers:
            at_home = worker.resident & targets[worker.worker_id]
            self.n_homes.update(at_home)
            self.n_loading.update(worker.loading)
            if not worker.is_held_up:
                self.n_ready.update(at_home)
        for worker in workers:
            if worker.task is None and not worker.is_held_up:
                placed = targets[worker.worker_id]
                self.idle |= {key for key in worker.resident if key in placed or not self.n_homes[key]}

    def missing(self, worker: WorkerView) -> frozenset[StageKey]:
        name = worker.worker_id
        return self.placement.stages[name] - self.resident[name] - self.loading[name] - worker.failed

    def load(self, worker: WorkerView, keys: frozenset[StageKey]) -> None:
        """Ask for as many of `keys` as there is room for, if that leaves enough workers ready."""
        name = worker.worker_id
        at_home = worker.resident & self.placement.stages[name]
        held_up = worker.occupied or bool(self.loading[name])
        if not keys or (not held_up and not self._can_spare(at_home)):
            return
        asked: set[StageKey] = set()
        dropped: set[StageKey] = set()
        for key in self._in_order(keys):
            for_it = self._room_for(worker, {*asked, key}, dropped)
            if for_it is not None:
                asked.add(key)
                dropped |= for_it
        if not asked:
            return
        self._evict(worker, dropped)
        for model, stages in self._by_model(asked):
            self.moves.append(
                Load(
                    worker=name,
                    model=model,
                    stages=stages,
                    reason=self.placement.reason,
                    detail=self.placement.detail,
                )
            )
        self.loading[name] |= asked
        self.n_loading.update(asked)
        if not held_up:
            self.n_ready.subtract(at_home)

    def drop_unplaced(self, worker: WorkerView) -> None:
        """Evict what has no place there and a ready one elsewhere."""
        unplaced = self.resident[worker.worker_id] - self.placement.stages[worker.worker_id]
        self._evict(worker, {key for key in unplaced - _running(worker) if self.n_homes[key]})

    def _can_spare(self, at_home: frozenset[StageKey]) -> bool:
        """Whether half of the homes of each of these stages stay ready without one that has them all.

        A stage's only home cannot wait for another one.
        """
        return all(
            self.n_homes[key] == 1 or self.n_ready[key] - 1 >= (self.n_homes[key] + 1) // 2 for key in at_home
        )

    def _room_for(
        self, worker: WorkerView, asked: set[StageKey], dropped: set[StageKey]
    ) -> set[StageKey] | None:
        """What is to be evicted besides `dropped` to load `asked`; None if there is no room then either."""
        name = worker.worker_id
        held = (self.resident[name] | self.loading[name] | asked) - dropped
        more: set[StageKey] = set()
        if self.sizes.fits(held, worker):
            return more
        spare = self.resident[name] - self.placement.stages[name] - _running(worker) - dropped
        for key in sorted(spare, key=lambda key: (not self.n_homes[key], key in self.needed, key)):
            if self.n_homes[key] or key not in self.needed or key not in self.placed:
                more.add(key)
                if self.sizes.fits(held - more, worker):
                    return more
        return None

    def _evict(self, worker: WorkerView, keys: Collection[StageKey]) -> None:
        for model, stages in self._by_model(keys):
            self.moves.append(
                Evict(
                    worker=worker.worker_id,
                    model=model,
                    stages=stages,
                    reason=self.placement.reason,
                    detail=self.placement.detail,
                )
            )
            self.resident[worker.worker_id] -= {(model, stage) for stage in stages}

    def _in_order(self, keys: Collection[StageKey]) -> Sequence[StageKey]:
        return [(model, stage) for model, stages in self._by_model(keys) for stage in stages]

    def _by_model(self, keys: Collection[StageKey]) -> list[tuple[str, tuple[str, ...]]]:
        """By model, in the order of its stages; what no model has is left out."""
        found = (
            (view.model, tuple(stage for stage in view.stages if (view.model, stage) in keys))
            for view in self.observation.models.values()
        )
        return [(model, stages) for model, stages in found if stages]


def _is_on_its_way(worker: WorkerView, target: frozenset[StageKey]) -> bool:
    return worker.resident == target or worker.resident | worker.loading == target


def _running(worker: WorkerView) -> frozenset[StageKey]:
    if worker.task is None:
        return frozenset()
    return frozenset((worker.task.model, stage) for stage in worker.task.pending)
