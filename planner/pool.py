"""The workers as a decision uses them: who can run a job, which node fits, who is taken.

It finds the node whose idle workers fit best in constant time.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.outlook import Outlook
from planner.roster import Roster, WorkerClass
from planner.types import JobView, Shape, StageKey


@dataclass(frozen=True, slots=True)
class Option:
    """A class that can run the next `n_merged` stages of a job as one task."""

    workers: WorkerClass
    n_merged: int


class Pool:
    """All workers in classes. Whoever takes idle ones from it means to start something on them."""

    def __init__(self, roster: Roster, outlook: Outlook) -> None:
        self._outlook = outlook
        self.classes = roster.classes
        self.kinds = roster.kinds
        self.n_workers = roster.n_workers
        self._options: dict[tuple[str, tuple[str, ...], Shape | None], list[Option]] = {}
        self._known_mates: dict[tuple[int, StageKey], list[WorkerClass]] = {}
        self._unhindered = {key for each in self.classes if not each.held_up for key in each.usable}
        self.usable: frozenset[StageKey] = frozenset().union(*(each.usable for each in self.classes))
        self._is_bounded = any(each.room_bytes is not None for each in self.classes)

    @property
    def n_idle(self) -> int:
        """How many are idle and may be given a task."""
        return sum(each.n_idle for each in self.classes)

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

    def idle_by_node(self) -> dict[str, int]:
        """How many workers of each node are idle, of whatever class."""
        idle: dict[str, int] = {}
        for each in self.classes:
            for node, ids in each.idle.items():
                idle[node] = idle.get(node, 0) + len(ids)
        return idle

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

    def narrowest(self, job: JobView, workers: WorkerClass) -> int:
        """The smallest degree at which such workers have the memory for the job's loop.

        1 if none is known to be enough: then it is tried where its stages are, and may fail there.
        """
        return self._narrowest(job, workers) or 1

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
        """How many of those `n_merged` it has the memory for, a loop at whatever degree."""
        if workers.room_bytes is None:
            return n_merged
        view = self._outlook.view(job.model)
        for n, stage in enumerate(job.pending[:n_merged]):
            is_loop = view is not None and stage == view.loop_stage
            if not (self._narrowest(job, workers) if is_loop else self.fits(job, (stage,), workers)):
                return n
        return n_merged

    def _narrowest(self, job: JobView, workers: WorkerClass) -> int:
        """The smallest degree at which its loop is not known to need more memory than there is; 0 without."""
        view, room_bytes = self._outlook.view(job.model), workers.room_bytes
        if room_bytes is None or view is None:
            return 1
        device, offered = workers.kind
        for degree in offered:
            need = self._outlook.profile.peak_bytes(device, view, view.loop_stage, job.shape, degree=degree)
            if need is None or need <= room_bytes:
                return degree
        return 0
