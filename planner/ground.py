"""A fleet as the search for a placement sees it: its parts, their demand and its rooms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from planner.assign import assigned
from planner.demand import demand_s
from planner.forecast import Forecast
from planner.parts import Part, parts_of
from planner.placement import Targets
from planner.profile import Profile
from planner.rooms import Sizes, rooms_of, sizes_of
from planner.search import Counts, Problem
from planner.types import ModelView, Observation, PlannerConfig, StageKey, WorkerView

PRIOR = {"E": 0.10, "D": 0.63, "C": 0.27}
"""Shares of a model's GPU-seconds while none of it was asked for. Those of its largest shape, which a profile
would tell, leave the encode too few workers where small ones come.

Source: light load in TridentServe (arXiv 2510.02838).
"""

LEAST_SHARE = 1e-6
"""Of all demand, what a part is taken to ask for that nobody asks for: so little that it needs no more than a
home, and enough that it gets one."""

ASSUMED_LOAD_S = 1.0
"""What loading a stage is taken to cost until it was done once."""


@dataclass(frozen=True, slots=True)
class Ground:
    """`demand_s`: GPU-seconds a second by stage, as forecast; empty while nothing is known."""

    problem: Problem
    demand_s: Mapping[StageKey, float]
    observation: Observation
    sizes: Sizes

    def mask(self, held: frozenset[StageKey]) -> int:
        """The set of parts that `held` has whole."""
        return sum(1 << i for i, part in enumerate(self.problem.parts) if part.keys <= held)

    def keys(self, mask: int) -> frozenset[StageKey]:
        """The stages of a set of parts."""
        return frozenset(
            key for i, part in enumerate(self.problem.parts) if mask >> i & 1 for key in part.keys
        )

    def masks(self, stages: Targets) -> dict[str, int]:
        """The set of parts of each worker."""
        known: dict[frozenset[StageKey], int] = {}
        for held in stages.values():
            if held not in known:
                known[held] = self.mask(held)
        return {name: known[held] for name, held in stages.items()}

    def stages(self, sets: Mapping[str, int]) -> dict[str, frozenset[StageKey]]:
        """The stages of each worker."""
        known = {mask: self.keys(mask) for mask in set(sets.values())}
        return {name: known[mask] for name, mask in sets.items()}

    def kept(self, stages: Targets, *, grown: bool) -> dict[str, int]:
        """The sets of those workers that may keep theirs; if `grown`, with whatever has room beside it."""
        masks = self.masks(stages)
        kept: dict[str, int] = {}
        for room in self.problem.rooms:
            known: dict[int, int] = {0: 0}
            for worker in room.workers:
                held = masks.get(worker.worker_id, 0)
                if held not in known:
                    known[held] = held if room.fits(held) else 0
                    if grown and known[held]:
                        known[held] = next((more for more in room.options if more & held == held), held)
                if known[held]:
                    kept[worker.worker_id] = known[held]
        return kept

    def counts(self, sets: Mapping[str, int]) -> Counts:
        """How many workers of each room have which set; workers that are not in `sets` are left out."""
        counts: dict[tuple[int, int], int] = {}
        for place, room in enumerate(self.problem.rooms):
            for worker in room.workers:
                if worker.worker_id in sets:
                    key = (place, sets[worker.worker_id])
                    counts[key] = counts.get(key, 0) + 1
        return counts

    def assigned(self, counts: Counts, current: Mapping[str, int]) -> dict[str, int]:
        """Set of parts by worker, with few loads."""
        known: dict[tuple[int, frozenset[StageKey], frozenset[StageKey]], float] = {}

        def missing_s(worker: WorkerView, mask: int) -> float:
            key = (mask, worker.resident, worker.loading)
            if key not in known:
                known[key] = self.load_s(self.keys(mask) - worker.resident - worker.loading)
            return known[key]

        return assigned(self.problem, counts, current, missing_s)

    def loads_s(self, stages: Targets) -> float:
        """Worker seconds to load all that `stages` has and the workers have not."""
        known: dict[frozenset[StageKey], float] = {}
        total_s = 0.0
        for worker in self.observation.workers:
            missing = stages[worker.worker_id] - worker.resident - worker.loading
            if missing:
                if missing not in known:
                    known[missing] = self.load_s(missing)
                total_s += known[missing]
        return total_s

    def impossible(self, mask: int) -> frozenset[StageKey]:
        """Those of these parts that no worker can hold, not even alone."""
        return frozenset(
            key
            for i, part in enumerate(self.problem.parts)
            if mask >> i & 1 and not any(room.fits(1 << i) for room in self.problem.rooms)
            for key in part.keys
        )

    def lack(self, mask: int) -> str:
        """What has no room, and why, in one line."""
        told = []
        for i, part in enumerate(self.problem.parts):
            if mask >> i & 1:
                told.append(f"{'/'.join(part.stages)} of {part.model} ({self._why(i, part)})")
        return f"no room for {', '.join(told)}"

    def _why(self, i: int, part: Part) -> str:
        bounds = {
            (room.workers[0].device, room.workers[0].memory_bytes)
            for room in self.problem.rooms
            if not room.barred >> i & 1
        }
        known = [(bound, device) for device, bound in bounds if bound is not None]
        if not bounds or not known:
            return "failed on every worker" if not bounds else "no worker is free for it"
        bound, device = max(known)
        needed = self.sizes.held_bytes(part.keys, device, bound)
        if needed <= bound:
            return "not beside what others need"
        return f"needs {needed} bytes, a worker has at most {bound}"

    def load_s(self, keys: frozenset[StageKey]) -> float:
        """Seconds to load these on one worker, `ASSUMED_LOAD_S` for each that was never loaded."""
        return seconds_to_load(self.observation.models, keys)


def seconds_to_load(models: Mapping[str, ModelView], keys: frozenset[StageKey]) -> float:
    """To load these on one worker, `ASSUMED_LOAD_S` for each that was never loaded."""
    return sum(models[model].load_s.get(stage, ASSUMED_LOAD_S) for model, stage in sorted(keys))


def ground_of(
    forecast: Forecast, profile: Profile, observation: Observation, config: PlannerConfig
) -> Ground:
    """As it is now."""
    sizes = sizes_of(profile, observation, forecast.largest)
    kinds = {(worker.device, worker.memory_bytes): worker for worker in observation.workers}

    def fits_somewhere(part: Part) -> bool:
        return any(sizes.fits(part.keys, worker) for worker in kinds.values())

    parts = parts_of(observation.models.values(), fits_somewhere)
    asked = demand_s(forecast, profile, observation, config.horizon_s)
    of_parts = [sum(asked.get(key, 0.0) for key in sorted(part.keys)) for part in parts]
    asked_s = sum(of_parts)
    if asked_s <= 0.0:
        demand = [PRIOR[part.letter] for part in parts]
    else:
        demand = [max(seconds, LEAST_SHARE * asked_s) for seconds in of_parts]
    rooms = rooms_of(observation.workers, parts, demand, sizes)
    return Ground(Problem(parts, tuple(demand), asked_s, rooms), asked, observation, sizes)
