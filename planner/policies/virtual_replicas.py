"""TridentServe's Orchestrator: which stages each worker is to hold, by the requests that there are.

A request's type is the first of V0 to V3 whose workers have the memory for it: V0 is EDC on one worker, V1
is DC beside E, V2 is ED beside C, V3 has all three apart. Of G workers a type gets floor(share of requests
x G), the rest goes to the types that lose most by that, and a type that is asked for has at least one
worker of each kind. A type's workers are split into primaries, which hold D, and auxiliaries so that their
rates match: in proportion to the GPU-seconds of what they hold, each loop at its best degree. Primaries
come first in order of nodes, so that they fill whole nodes; whoever had a role keeps it where that is still
there.

Where every worker has room for all of every model there is one type for all of them. Types of several models
share the workers like types of one.

Source: TridentServe (arXiv 2510.02838).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.demand import common_device
from planner.placement import Targets
from planner.policies.even_mix import Work, apportioned
from planner.profile import Profile
from planner.types import ModelView, Observation, Shape, StageKey, WorkerView

REPLICAS: tuple[tuple[str, ...], ...] = (("EDC",), ("DC", "E"), ("ED", "C"), ("D", "E", "C"))
"""V0 to V3: what the primary holds, then each auxiliary."""

IMBALANCE = 1.5
"""How much faster than the slowest the fastest part may be before it is planned anew."""

Role = tuple[str, str]
"""A model, or "" for all of them, and the letters that a worker holds of it."""

EVERYTHING: Role = ("", "EDC")


@dataclass(frozen=True, slots=True)
class Plan:
    """`roles` by worker id, the stages of each role, and with both the stages by worker id."""

    roles: Mapping[str, Role]
    stages: Mapping[Role, frozenset[StageKey]]
    models: frozenset[str]
    targets: Targets = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", {name: self.stages[role] for name, role in self.roles.items()})

    @property
    def is_one_type(self) -> bool:
        """Whether every worker holds everything."""
        return EVERYTHING in self.stages

    def is_for(self, observation: Observation) -> bool:
        """Whether it says something of every live worker, and of these models."""
        return self.models == observation.models.keys() and all(
            worker.worker_id in self.roles for worker in observation.workers
        )


def part_stages(view: ModelView, letters: str) -> tuple[str, ...]:
    """The stages of a model that these letters stand for, in order."""
    at = view.stages.index(view.loop_stage)
    return tuple(
        stage
        for place, stage in enumerate(view.stages)
        if ("E" if place < at else "D" if place == at else "C") in letters
    )


def optimal_type(
    view: ModelView, shape: Shape, profile: Profile, device: str, memory_bytes: int | None
) -> int | None:
    """0 for V0 to 3 for V3: the first whose workers can hold what they do of a job; None if none can."""
    for number, roles in enumerate(REPLICAS):
        if all(fits(view, part_stages(view, role), shape, profile, device, memory_bytes) for role in roles):
            return number
    return None


def fits(
    view: ModelView,
    stages: Sequence[str],
    shape: Shape,
    profile: Profile,
    device: str,
    memory_bytes: int | None,
    degree: int | None = None,
) -> bool:
    """Whether a worker has room for the weights of `stages` and the largest peak of them.

    A loop's at `degree`, or else at its best. What is not known counts as nothing.
    """
    if memory_bytes is None:
        return True
    loop_degree = degree or profile.best_degree(device, view, shape)
    peaks = (
        profile.peak_bytes(device, view, stage, shape, degree=loop_degree if stage == view.loop_stage else 1)
        for stage in stages
    )
    weights = sum(view.weight_bytes.get(stage, 0) for stage in stages)
    return weights + max((peak or 0 for peak in peaks), default=0) <= memory_bytes


def usual_worker(observation: Observation) -> tuple[str, int | None]:
    """The commonest kind of worker, and the least memory that one has; None without a bound."""
    device = common_device(observation)
    bounds = [worker.memory_bytes for worker in observation.workers if worker.device == device]
    return device, None if None in bounds else min((b for b in bounds if b is not None), default=None)


def planned(
    observation: Observation, profile: Profile, mix: Sequence[tuple[Work, float]], before: Plan | None
) -> Plan:
    """For the workers that there are. `mix`: jobs and how often they come, relatively."""
    device, memory_bytes = usual_worker(observation)
    models = observation.models
    if _all_fits(mix, profile, device, memory_bytes, models):
        held = {EVERYTHING: frozenset((name, stage) for name in models for stage in models[name].stages)}
        return Plan({w.worker_id: EVERYTHING for w in observation.workers}, held, frozenset(models))
    by_type = _by_type(mix, profile, device, memory_bytes, models)
    counts = _counts(len(observation.workers), by_type)
    stages = {
        (name, letters): frozenset((name, stage) for stage in part_stages(models[name], letters))
        for name, letters in counts
    }
    return Plan(_assigned(counts, observation.workers, before), stages, frozenset(models))


def imbalance(
    plan: Plan, mix: Sequence[tuple[Work, float]], observation: Observation, profile: Profile
) -> float:
    """How many times as fast as the slowest of its roles the fastest one gets through what is asked of it."""
    device, memory_bytes = usual_worker(observation)
    by_type = _by_type(mix, profile, device, memory_bytes, observation.models)
    asked: dict[Role, float] = {}
    for (name, number), works in by_type.items():
        for letters in REPLICAS[number]:
            role = (name, letters)
            asked[role] = asked.get(role, 0.0) + _gpu_s(works, letters)
    n_workers: dict[Role, int] = {}
    for worker in observation.workers:
        role = plan.roles[worker.worker_id]
        n_workers[role] = n_workers.get(role, 0) + 1
    rates = [n_workers.get(role, 0) / seconds for role, seconds in asked.items() if seconds > 0]
    if not rates:
        return 1.0
    return max(rates) / min(rates) if min(rates) > 0 else float("inf")


TypeKey = tuple[str, int]
ByType = Mapping[TypeKey, Sequence[tuple[Work, float]]]


def _all_fits(
    mix: Sequence[tuple[Work, float]],
    profile: Profile,
    device: str,
    memory_bytes: int | None,
    models: Mapping[str, ModelView],
) -> bool:
    if memory_bytes is None:
        return True
    others = sum(sum(view.weight_bytes.values()) for view in models.values())
    for work, _ in mix:
        view = models[work.kind.model]
        room = memory_bytes - others + sum(view.weight_bytes.values())
        if not fits(view, view.stages, work.kind.shape, profile, device, room):
            return False
    return others <= memory_bytes


def _by_type(
    mix: Sequence[tuple[Work, float]],
    profile: Profile,
    device: str,
    memory_bytes: int | None,
    models: Mapping[str, ModelView],
) -> dict[TypeKey, list[tuple[Work, float]]]:
    """What fits nowhere is of the last type: it is tried there, and fails."""
    found: dict[TypeKey, list[tuple[Work, float]]] = {}
    for work, weight in mix:
        name = work.kind.model
        number = optimal_type(models[name], work.kind.shape, profile, device, memory_bytes)
        found.setdefault((name, len(REPLICAS) - 1 if number is None else number), []).append((work, weight))
    for name in sorted(models.keys() - {name for name, _ in found}):
        found[name, 0] = []
    return dict(sorted(found.items()))


def _counts(n: int, by_type: ByType) -> dict[Role, int]:
    """Workers by role, V0 first, primaries before auxiliaries."""
    weights = {key: sum(rate for _, rate in works) for key, works in by_type.items()}
    sizes = {key: len(REPLICAS[key[1]]) for key in weights}
    total = sum(weights.values())
    shares = {key: n * weight / total if total > 0 else n / len(weights) for key, weight in weights.items()}
    counts = {key: max(sizes[key], int(share + 1e-9)) for key, share in shares.items()}
    while sum(counts.values()) > n:
        over = [key for key in counts if counts[key] > sizes[key]]
        if not over:
            # too few workers for every type: the one that is asked for least has none
            del counts[min(counts, key=lambda key: (weights[key], key))]
            continue
        counts[max(over, key=lambda key: (counts[key] - shares[key], key))] -= 1
    for _ in range(n - sum(counts.values()) if counts else 0):
        counts[max(counts, key=lambda key: (shares[key] - counts[key], key))] += 1
    primaries: dict[Role, int] = {}
    auxiliaries: dict[Role, int] = {}
    for (name, number), n_of_type in counts.items():
        roles = REPLICAS[number]
        seconds = [_gpu_s(by_type[name, number], letters) for letters in roles]
        for letters, n_of_role in zip(roles, apportioned(n_of_type, seconds), strict=True):
            of_role = primaries if "D" in letters else auxiliaries
            of_role[name, letters] = of_role.get((name, letters), 0) + n_of_role
    return primaries | auxiliaries


def _gpu_s(works: Sequence[tuple[Work, float]], letters: str) -> float:
    return sum(
        weight
        * (
            ("E" in letters) * work.encode_s
            + ("D" in letters) * work.diffuse_s
            + ("C" in letters) * work.decode_s
        )
        for work, weight in works
    )


def _assigned(
    counts: Mapping[Role, int], workers: Sequence[WorkerView], before: Plan | None
) -> dict[str, Role]:
    left = dict(counts)
    roles: dict[str, Role] = {}
    ordered = sorted(workers, key=lambda worker: (worker.node, worker.worker_id))
    for worker in ordered:
        had = before.roles.get(worker.worker_id) if before is not None else None
        if had is not None and left.get(had, 0):
            roles[worker.worker_id] = had
            left[had] -= 1
    free = [worker.worker_id for worker in ordered if worker.worker_id not in roles]
    for role, n in left.items():
        for _ in range(n):
            roles[free.pop(0)] = role
    return roles
