"""What a fleet that is set up by hand is set up for: the GPU-seconds of an even mix of the expected jobs.

Expected is what `PlannerConfig.expected` says, else every shape that was measured, at `USUAL_STEPS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from planner.demand import common_device
from planner.profile import Profile
from planner.types import Expected, Observation, PlannerConfig

USUAL_STEPS = 20
"""Of a loop of which nobody said how long it is."""


class Work(NamedTuple):
    """One job of a kind: its best degree k*, and GPU-seconds of what is before, in and behind its loop."""

    kind: Expected
    degree: int
    encode_s: float
    diffuse_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        return self.encode_s + self.diffuse_s + self.decode_s


def even_mix(config: PlannerConfig, profile: Profile, observation: Observation) -> list[Work]:
    """One job of every expected kind that has a known cost on the commonest kind of worker."""
    device = common_device(observation)
    kinds = config.expected or [
        Expected(name, shape, USUAL_STEPS)
        for name in sorted(observation.models)
        if (measured := profile.measurements.get((device, name))) is not None
        for shape in sorted({each.shape for each in measured.measured})
    ]
    made = (work_of(kind, observation, profile) for kind in kinds if kind.model in observation.models)
    return [work for work in made if work is not None]


def apportioned(n: int, weights: Sequence[float]) -> list[int]:
    """`n` split by `weights`, at least one each as far as that goes, first ones first; the rest goes to those
    that lack most of their share."""
    shares = _shares(n, weights)
    counts = [1 if place < n else 0 for place in range(len(weights))]
    for _ in range(n - sum(counts)):
        lack = [share - count for share, count in zip(shares, counts, strict=True)]
        counts[lack.index(max(lack))] += 1
    return counts


def grouped(n: int, weights: Mapping[int, float]) -> dict[int, int]:
    """How many groups of each degree `n` workers make: `weights` are the work by degree.

    At least one group of each degree, the widest ones given up first where there are too few workers.
    """
    degrees = sorted(degree for degree in weights if degree <= n)
    while degrees and sum(degrees) > n:
        degrees.pop()
    if not degrees:
        return {}
    shares = dict(zip(degrees, _shares(n, [weights[degree] for degree in degrees]), strict=True))
    groups = dict.fromkeys(degrees, 1)
    left = n - sum(degrees)
    while fitting := [degree for degree in degrees if degree <= left]:
        # by what it lacks in groups, or the widest would always be first
        most = max(fitting, key=lambda degree: ((shares[degree] - groups[degree] * degree) / degree, -degree))
        groups[most] += 1
        left -= most
    return groups


def _shares(n: int, weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [n * weight / total if total > 0 else n / len(weights) for weight in weights]


def work_of(kind: Expected, observation: Observation, profile: Profile) -> Work | None:
    """What one job of that kind takes on the commonest kind of worker; None if that is not known."""
    view = observation.models[kind.model]
    device = common_device(observation)
    degree = profile.best_degree(device, view, kind.shape)
    loop = view.stages.index(view.loop_stage)
    parts = (view.stages[:loop], view.stages[loop : loop + 1], view.stages[loop + 1 :])
    seconds = [profile.job_s(device, view, part, kind.shape, kind.steps, degree) for part in parts]
    encode_s, diffuse_s, decode_s = seconds
    if encode_s is None or diffuse_s is None or decode_s is None:
        return None
    return Work(kind, degree, encode_s, degree * diffuse_s, decode_s)
