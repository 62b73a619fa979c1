"""What fits together on a worker. Memory is a hard bound: weights of all that it holds and the largest peak.

What is not known counts as nothing: a stage that turns out not to fit fails to load there, and is then placed
elsewhere. Sets of parts are integers with bit i for part i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from planner.parts import Part
from planner.profile import Profile
from planner.types import ModelView, Observation, Shape, StageKey, WorkerView

MAX_OPTIONS = 24
"""Sets that the search tries on a worker. One or two models have at most 20 maximal ones."""

_COLOCATED = {("E", "D"): 1, ("D", "C"): 2}
"""What it is worth to hold both: less is handed over. V1 = DC + E hands over less than V2 = ED + C.

Source: TridentServe (arXiv 2510.02838).
"""


class Sizes:
    """Bytes of stages, with what was asked kept. `largest`: the largest shape seen of each model."""

    def __init__(
        self, profile: Profile, models: Mapping[str, ModelView], largest: Mapping[str, Shape]
    ) -> None:
        self._profile = profile
        self._models = models
        self._seen = largest
        self._peaks: dict[tuple[StageKey, str, int], int] = {}

    def weight_bytes(self, key: StageKey) -> int:
        """Of the weights, 0 where they are not known."""
        view = self._models.get(key[0])
        return 0 if view is None else view.weight_bytes.get(key[1], 0)

    def peak_bytes(self, key: StageKey, device: str, memory_bytes: int) -> int:
        """Beside the weights at the `largest` shape; 0 if unknown.

        Of a loop, at the smallest degree at which it fits by itself: that is how it will be run.
        """
        asked = (key, device, memory_bytes)
        if asked not in self._peaks:
            self._peaks[asked] = self._peak_bytes(key, device, memory_bytes)
        return self._peaks[asked]

    def held_bytes(self, held: frozenset[StageKey], device: str, memory_bytes: int) -> int:
        """What a worker needs that holds exactly these."""
        weights = sum(self.weight_bytes(key) for key in held)
        return weights + max((self.peak_bytes(key, device, memory_bytes) for key in held), default=0)

    def fits(self, held: frozenset[StageKey], worker: WorkerView) -> bool:
        """Whether `worker` may hold exactly these."""
        bound = worker.memory_bytes
        return bound is None or self.held_bytes(held, worker.device, bound) <= bound

    def _peak_bytes(self, key: StageKey, device: str, memory_bytes: int) -> int:
        model, stage = key
        view = self._models.get(model)
        shape = self.largest(device, model)
        if view is None or shape is None:
            return 0
        degrees = self._profile.degrees(device, view) if stage == view.loop_stage else (1,)
        known = [
            peak
            for degree in degrees
            if (peak := self._profile.peak_bytes(device, view, stage, shape, degree=degree)) is not None
        ]
        room = memory_bytes - self.weight_bytes(key)
        return next((peak for peak in known if peak <= room), min(known, default=0))

    def largest(self, device: str, model: str) -> Shape | None:
        """The shape that memory is counted for: the largest that was seen.

        While none was it is the model's usual one, or else the largest that was measured.
        """
        if model in self._seen:
            return self._seen[model]
        view = self._models.get(model)
        if view is not None and view.usual is not None:
            return view.usual
        measured = self._profile.measurements.get((device, model))
        if measured is None or not measured.measured:
            return None
        return max((each.shape for each in measured.measured), key=lambda shape: (shape.tokens, shape))


def sizes_of(profile: Profile, observation: Observation, largest: Mapping[str, Shape]) -> Sizes:
    """Bytes of stages on this fleet, by the `largest` shape of each model that some worker can run.

    One that no worker can, whatever else leaves it, is not made room for: who asks for it must not take the
    model from all others. It is tried where its stages are, and may fail there.
    """
    sizes = Sizes(profile, observation.models, largest)
    kinds = {(worker.device, worker.memory_bytes): worker for worker in observation.workers}.values()
    possible = {
        name: shape
        for name, shape in largest.items()
        if name not in observation.models
        or all(
            any(sizes.fits(frozenset({(name, stage)}), worker) for worker in kinds)
            for stage in observation.models[name].stages
        )
    }
    return sizes if len(possible) == len(largest) else Sizes(profile, observation.models, possible)


@dataclass(frozen=True, slots=True)
class Room:
    """Workers that can hold the same. `options`: the maximal sets that fit, co-located ones first.

    `whole`: those of whole models only. `barred`: parts of which a stage failed there.
    """

    workers: tuple[WorkerView, ...]
    barred: int
    weights: tuple[int, ...]
    peaks: tuple[int, ...]
    options: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()

    def fits(self, held: int) -> bool:
        """Whether a worker may hold exactly these parts."""
        if held & self.barred:
            return False
        bound = self.workers[0].memory_bytes
        if bound is None:
            return True
        places = [part for part in range(len(self.weights)) if held >> part & 1]
        weights = sum(self.weights[part] for part in places)
        return weights + max((self.peaks[part] for part in places), default=0) <= bound


def rooms_of(
    workers: Sequence[WorkerView], parts: Sequence[Part], demand_s: Sequence[float], sizes: Sizes
) -> tuple[Room, ...]:
    """The workers by what they can hold, in order of their first ids."""
    keys = [part.keys for part in parts]
    all_keys = frozenset().union(*keys) if keys else frozenset()
    alike: dict[tuple[str, int | None, frozenset[StageKey]], list[WorkerView]] = {}
    for worker in sorted(workers, key=lambda worker: worker.worker_id):
        failed = worker.failed & all_keys if worker.failed else worker.failed
        alike.setdefault((worker.device, worker.memory_bytes, failed), []).append(worker)
    rooms = []
    for (device, bound, failed), of_room in alike.items():
        room = Room(
            workers=tuple(of_room),
            barred=sum(1 << i for i, of_part in enumerate(keys) if of_part & failed),
            weights=tuple(sum(sizes.weight_bytes(key) for key in of_part) for of_part in keys),
            peaks=tuple(
                0 if bound is None else max(sizes.peak_bytes(key, device, bound) for key in of_part)
                for of_part in keys
            ),
        )
        options, whole = _options(room, parts, demand_s)
        rooms.append(Room(room.workers, room.barred, room.weights, room.peaks, options=options, whole=whole))
    return tuple(rooms)


def _options(
    room: Room, parts: Sequence[Part], demand_s: Sequence[float]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    every = ((1 << len(parts)) - 1) & ~room.barred
    models = _model_masks(parts)
    if room.fits(every):
        return (every,), (sum(mask for mask in models if mask & every == mask),)
    order = sorted(
        range(len(parts)),
        key=lambda part: (-demand_s[part] / max(1, room.weights[part]), part),
    )
    found = {filled(room, held, order) for held in _seeds(models) if room.fits(held)}
    maximal = [
        held for held in found if held and not any(held != more and held & more == held for more in found)
    ]
    maximal.sort(key=lambda held: _preference(held, parts, demand_s))
    wholes = [
        sum(chosen)
        for n in range(len(models) + 1)
        for chosen in combinations(models, n)
        if n and room.fits(sum(chosen))
    ]
    whole = [held for held in wholes if not any(held != more and held & more == held for more in wholes)]
    return _fewer(maximal), tuple(sorted(whole, key=lambda held: _preference(held, parts, demand_s)))


def filled(room: Room, held: int, order: Sequence[int]) -> int:
    """`held` and, in that order, every other part that still fits."""
    for part in order:
        if not held >> part & 1 and room.fits(held | 1 << part):
            held |= 1 << part
    return held


def _model_masks(parts: Sequence[Part]) -> list[int]:
    masks: dict[str, int] = {}
    for i, part in enumerate(parts):
        masks[part.model] = masks.get(part.model, 0) | 1 << i
    return list(masks.values())


def _seeds(models: Sequence[int]) -> set[int]:
    """Every choice of parts of any two models: filled up, all maximal sets of up to two models, and of more
    those that can matter."""
    subsets = [_subsets(mask) for mask in models]
    if len(models) < 2:
        return set(subsets[0]) if subsets else set()
    return {a | b for ours, theirs in combinations(subsets, 2) for a, b in product(ours, theirs)}


def _subsets(mask: int) -> list[int]:
    found, held = [0], mask
    while held:
        found.append(held)
        held = (held - 1) & mask
    return found


def _preference(held: int, parts: Sequence[Part], demand_s: Sequence[float]) -> tuple[int, float, int]:
    """Co-located first, then those that hold more of the demand."""
    of_model: dict[str, set[str]] = {}
    for i, part in enumerate(parts):
        if held >> i & 1:
            of_model.setdefault(part.model, set()).add(part.letter)
    worth = sum(
        worth for has in of_model.values() for pair, worth in _COLOCATED.items() if has.issuperset(pair)
    )
    covered_s = sum(demand_s[i] for i in range(len(parts)) if held >> i & 1)
    return -worth, -covered_s, held


def _fewer(options: Sequence[int]) -> tuple[int, ...]:
    """The first of them, and behind those the first one of each part that would be in none."""
    chosen = list(options[:MAX_OPTIONS])
    covered = 0
    for held in chosen:
        covered |= held
    for held in options[MAX_OPTIONS:]:
        if held & ~covered:
            chosen.append(held)
            covered |= held
    return tuple(chosen)
