"""The idle workers as a rival sees them: alike ones together, by node, to be taken in gangs.

A worker runs what it holds and is meant to hold, so the placement says what may be one task: with everything
everywhere a whole pipeline is, with parts apart each part is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.placement import Targets
from planner.types import JobView, Observation, StageKey


@dataclass(slots=True, eq=False)
class Group:
    """Idle workers that are alike. `usable`: the stages that they may run; `bucket`: of what group they are.

    `degrees`: those offered that the widest node has workers for. `idle`: node -> ids in order.
    """

    usable: frozenset[StageKey]
    bucket: int
    device: str
    degrees: tuple[int, ...]
    memory_bytes: int | None
    idle: dict[str, list[str]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The lowest id that was ever in it, or "" behind the last."""
        return min((ids[0] for ids in self.idle.values() if ids), default="")

    @property
    def widest(self) -> int:
        """The most idle ones on one node."""
        return max(map(len, self.idle.values()), default=0)

    def node_for(self, n: int, own: str = "") -> str | None:
        """`own` if that has `n` idle ones, else the node with the fewest of those that have, then by name."""
        if own and len(self.idle.get(own, ())) >= n:
            return own
        fitting = [(len(ids), node) for node, ids in self.idle.items() if len(ids) >= n]
        return min(fitting)[1] if fitting else None

    def take(self, node: str, n: int) -> tuple[str, ...]:
        """The first `n` idle ones of `node`, which are idle no more."""
        ids = self.idle[node]
        taken = tuple(ids[:n])
        del ids[:n]
        return taken


class Floor:
    """`groups`: of the idle workers that no load holds up, by id. `buckets`: those of workers that have one.

    `homes`: the different sets of stages that workers, idle or not, are to hold and could load.
    """

    def __init__(
        self, targets: Targets, observation: Observation, buckets: Mapping[str, int] | None = None
    ) -> None:
        of_worker = buckets or {}
        self.homes: set[frozenset[StageKey]] = set()
        known: dict[object, Group] = {}
        alike: dict[object, Group] = {}
        widths: dict[str, int] = {}
        for worker in observation.workers:
            widths[worker.node] = widths.get(worker.node, 0) + 1
            target = targets[worker.worker_id]
            self.homes.add(target - worker.failed if worker.failed else target)
            if worker.task is not None or worker.loading or worker.occupied:
                continue
            bucket = of_worker.get(worker.worker_id, 0)
            bound = worker.memory_bytes
            key = (worker.resident, target, bucket, worker.device, worker.degrees, bound)
            group = known.get(key)
            if group is None:
                # what a worker holds besides makes no difference
                usable = worker.resident & target
                made = Group(usable, bucket, worker.device, worker.degrees, bound)
                group = known[key] = alike.setdefault((usable, *key[2:]), made)
            group.idle.setdefault(worker.node, []).append(worker.worker_id)
        widest = max(widths.values(), default=1)
        for group in alike.values():
            group.degrees = tuple(degree for degree in group.degrees if degree <= widest)
            for ids in group.idle.values():
                ids.sort()
        self.groups = sorted(alike.values(), key=lambda group: group.first)
        self._able: dict[tuple[str, tuple[str, ...]], tuple[int, list[Group]]] = {}

    @property
    def n_idle(self) -> int:
        """How many workers have nothing to do yet."""
        return sum(len(ids) for group in self.groups for ids in group.idle.values())

    @property
    def is_empty(self) -> bool:
        """Whether no worker is idle."""
        return not any(ids for group in self.groups for ids in group.idle.values())

    def able(self, job: JobView) -> tuple[int, list[Group]]:
        """How many of the job's next stages are one task, and who could run that now.

        As many as some worker is to hold; 0 if none is to hold the next one, or failed to.
        """
        key = (job.model, job.pending)
        if key not in self._able:
            n = max((_n_leading(job, home) for home in self.homes), default=0)
            needed = {(job.model, stage) for stage in job.pending[:n]}
            self._able[key] = n, [group for group in self.groups if n and needed <= group.usable]
        return self._able[key]


def _n_leading(job: JobView, held: frozenset[StageKey]) -> int:
    n = 0
    while n < len(job.pending) and (job.model, job.pending[n]) in held:
        n += 1
    return n
