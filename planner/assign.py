"""Which worker holds which parts, once it is settled how many do: as few loads as possible, packed per node.

Workers of one set on one node can share a wide task and hand over through the node's memory, so between
workers that would load equally much the node with most of them goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from planner.search import Counts, Problem
from planner.types import WorkerView

MissingS = Callable[[WorkerView, int], float]
"""Seconds that a worker would have to load for a set of parts."""


def assigned(
    problem: Problem, counts: Counts, current: Mapping[str, int], missing_s: MissingS
) -> dict[str, int]:
    """Set of parts by worker id. `current` workers keep theirs as far as the counts have room for it."""
    sets: dict[str, int] = {}
    for place, room in enumerate(problem.rooms):
        wanted = {held: n for (of_room, held), n in counts.items() if of_room == place}
        present: dict[int, int] = {}
        for worker in room.workers:
            if worker.worker_id in current:
                held = current[worker.worker_id]
                present[held] = present.get(held, 0) + 1
        surplus = {held: n - wanted.get(held, 0) for held, n in present.items()}
        missing = {held: n - present.get(held, 0) for held, n in wanted.items()}
        sets |= {worker.worker_id: current.get(worker.worker_id, 0) for worker in room.workers}
        taken: set[str] = set()
        for held in sorted((held for held in missing if missing[held] > 0), key=lambda held: -wanted[held]):
            on_node: dict[str, int] = {}
            for worker in room.workers:
                if sets[worker.worker_id] == held:
                    on_node[worker.node] = on_node.get(worker.node, 0) + 1
            free = [
                worker
                for worker in room.workers
                if worker.worker_id not in taken
                and (worker.worker_id not in current or surplus[current[worker.worker_id]] > 0)
            ]
            costs = {worker.worker_id: missing_s(worker, held) for worker in free}
            free.sort(key=lambda w: (costs[w.worker_id], -on_node.get(w.node, 0), w.node, w.worker_id))
            n_left = missing[held]
            for worker in free:
                if not n_left:
                    break
                if worker.worker_id in current:
                    before = current[worker.worker_id]
                    if surplus[before] <= 0:
                        continue
                    surplus[before] -= 1
                taken.add(worker.worker_id)
                sets[worker.worker_id] = held
                n_left -= 1
    return sets
