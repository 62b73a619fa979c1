"""Which models' parts LegoDiffusion's workers hold before the first request: parts are scaled one by one.

Without a bound on memory every worker holds everything. Else each has a part of its own, in proportion to the
parts' GPU-seconds in an even mix of what is expected, and in order of those whatever else it has room for at
every expected shape, at degree 1. What is missing later is loaded by the scheduler.

Source: LegoDiffusion (arXiv 2604.08123), which shares parts between workflows and scales each by its demand.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.demand import common_device
from planner.placement import Targets
from planner.policies.even_mix import Work, apportioned, even_mix
from planner.policies.virtual_replicas import fits, part_stages
from planner.profile import Profile
from planner.types import Observation, PlannerConfig, StageKey

Part = tuple[str, str]
"""A model and the letter of a part."""


def start_targets(config: PlannerConfig, profile: Profile, observation: Observation) -> Targets:
    """For every worker that there is now."""
    workers = sorted(observation.workers, key=lambda worker: (worker.node, worker.worker_id))
    models = observation.models
    every = frozenset((name, stage) for name, view in models.items() for stage in view.stages)
    if all(worker.memory_bytes is None for worker in workers):
        return dict.fromkeys((worker.worker_id for worker in workers), every)
    mix = even_mix(config, profile, observation)
    parts = [
        (name, letter) for name in sorted(models) for letter in "DCE" if part_stages(models[name], letter)
    ]
    asked = {part: _gpu_s(mix, part) for part in parts}
    parts.sort(key=lambda part: -asked[part])
    counts = apportioned(len(workers), [asked[part] for part in parts])
    device = common_device(observation)
    bound = min(worker.memory_bytes for worker in workers if worker.memory_bytes is not None)
    sets = {part: _filled(part, parts, mix, profile, device, bound, observation) for part in parts}
    own = [part for part, n in zip(parts, counts, strict=True) for _ in range(n)]
    return {worker.worker_id: sets[part] for worker, part in zip(workers, own, strict=True)}


def _gpu_s(mix: Sequence[Work], part: Part) -> float:
    name, letter = part
    of_model = (work for work in mix if work.kind.model == name)
    return sum({"E": w.encode_s, "D": w.diffuse_s, "C": w.decode_s}[letter] for w in of_model)


def _filled(
    own: Part,
    parts: Sequence[Part],
    mix: Sequence[Work],
    profile: Profile,
    device: str,
    bound: int,
    observation: Observation,
) -> frozenset[StageKey]:
    models = observation.models
    held = {own}
    for part in parts:
        if part not in held and _has_room({*held, part}, mix, profile, device, bound, observation):
            held.add(part)
    return frozenset((name, stage) for name, letter in held for stage in part_stages(models[name], letter))


def _has_room(
    held: set[Part],
    mix: Sequence[Work],
    profile: Profile,
    device: str,
    bound: int,
    observation: Observation,
) -> bool:
    models = observation.models
    stages = {
        name: [
            stage
            for stage in view.stages
            if any(stage in part_stages(view, letter) for of, letter in held if of == name)
        ]
        for name, view in models.items()
    }
    weights = {name: sum(models[name].weight_bytes.get(s, 0) for s in own) for name, own in stages.items()}
    total = sum(weights.values())
    if total > bound:
        return False
    return all(
        fits(
            models[work.kind.model],
            stages[work.kind.model],
            work.kind.shape,
            profile,
            device,
            bound - total + weights[work.kind.model],
            degree=1,
        )
        for work in mix
    )
