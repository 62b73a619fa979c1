"""What TridentServe's program takes a request to be worth at each degree.

- On time: 1000. A request that would be late at a degree, and on time at another one that it may get later,
  is worth nothing there: it waits.
- One that cannot be on time any more: min(1000, 100 (1 + lateness / t_best)) + degree - 1. Lateness is how
  late it is at its best degree if that begins now, so that it ages alike at every degree.
- A little for each worker, so that none idles that could speed somebody up, less what the type hands over.

Only degrees with speed-up / degree >= 0.8 are ever used, and only those at which it has the memory; one that
fits on no worker at all is tried.

Source: TridentServe (arXiv 2510.02838); the rewards are those of its published code (PKU-DAIR/Hetu-DiT), and
that a late start is worth nothing is how the paper states its program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from planner.outlook import ROUNDING_S
from planner.policies.floor import Group
from planner.policies.knapsack import Choice
from planner.policies.virtual_replicas import fits, optimal_type
from planner.profile import GOOD_EFFICIENCY, Profile
from planner.types import JobView, ModelView, Observation

ON_TIME = 1000.0
AGEING = 100.0
"""What a lost request is worth at first, and again for each best latency that it is late."""

BUSY = 1.0
"""What a worker that does not idle is worth: it decides between equals only."""

HANDED_OVER: Mapping[str, float] = MappingProxyType({"V0": 0.0, "V1": 0.1, "V2": 0.2, "V3": 0.3})
"""What a type's hand-overs cost: less than any worker is worth, so that they decide between equals too."""


@dataclass(slots=True, eq=False)
class Kind:
    """Requests of one shape and progress on one sort of primaries, which can run their next `stages`.

    `by_degree`: seconds that are left, at the degrees that may be used; `best_s`: at the best efficient one,
    whether or not there is room for that.
    """

    stages: tuple[str, ...]
    by_degree: tuple[tuple[int, float], ...]
    best_s: float
    handed_over: float
    _on_time: dict[int, list[Choice]] = field(default_factory=dict)

    def n_on_time(self, slack_s: float) -> int:
        """At how many degrees it takes no longer; -1 if not at its best one either."""
        if self.best_s > slack_s + ROUNDING_S:
            return -1
        return sum(seconds <= slack_s + ROUNDING_S for _, seconds in self.by_degree)

    def choices(self, slack_s: float) -> list[Choice]:
        """Degrees and what they are worth for a request that is due in `slack_s`."""
        n = self.n_on_time(slack_s)
        if n >= 0:
            if n not in self._on_time:
                self._on_time[n] = [
                    (degree, ON_TIME + BUSY * degree - self.handed_over)
                    for degree, seconds in self.by_degree
                    if seconds <= slack_s + ROUNDING_S
                ]
            return self._on_time[n]
        late_s = self.best_s - slack_s
        aged = min(ON_TIME, AGEING * (1 + late_s / self.best_s)) if self.best_s > 0 else ON_TIME
        return [
            (degree, aged + degree - 1 + BUSY * degree - self.handed_over) for degree, _ in self.by_degree
        ]


class Kinds:
    """Few kinds, many requests: each is worked out once a decision."""

    def __init__(self, observation: Observation, profile: Profile) -> None:
        self._models = observation.models
        self._profile = profile
        self._known: dict[object, Kind | None] = {}

    def of(self, job: JobView, group: Group, replica: str) -> Kind | None:
        """None if such workers do not hold all of its next stages up to the loop."""
        key = (job.model, job.shape, job.pending, job.steps - job.steps_done, group.usable)
        if key not in self._known:
            self._known[key] = self._made(job, group, HANDED_OVER[replica])
        return self._known[key]

    def _made(self, job: JobView, group: Group, handed_over: float) -> Kind | None:
        view, profile, device = self._models[job.model], self._profile, group.device
        stages = _held_stages(job, group)
        if view.loop_stage not in stages:
            return None
        steps = job.steps - job.steps_done
        alone_s = profile.stage_s(device, view, view.loop_stage, job.shape, steps)
        if alone_s is None or profile.job_s(device, view, job.pending, job.shape, steps) is None:
            # not known yet: run it on one worker, which will tell
            return Kind(stages, ((1, 0.0),), 0.0, handed_over)
        found = []
        efficient_s = []
        for degree in group.degrees:
            loop_s = profile.stage_s(device, view, view.loop_stage, job.shape, steps, degree=degree)
            left_s = profile.job_s(device, view, job.pending, job.shape, steps, degree)
            # a degree that is just good enough must not fall to rounding
            if loop_s is None or left_s is None or alone_s < (GOOD_EFFICIENCY - 1e-9) * degree * loop_s:
                continue
            efficient_s.append(left_s)
            if self._has_room(view, job, group, degree):
                found.append((degree, left_s))
        return Kind(stages, tuple(found), min(efficient_s), handed_over)

    def _has_room(self, view: ModelView, job: JobView, group: Group, degree: int) -> bool:
        bound, profile, device = group.memory_bytes, self._profile, group.device
        if bound is None or optimal_type(view, job.shape, profile, device, bound) is None:
            return True
        held = [stage for stage in view.stages if (view.model, stage) in group.usable]
        others = sum(
            self._models[model].weight_bytes.get(stage, 0)
            for model, stage in group.usable
            if model != view.model and model in self._models
        )
        return fits(view, held, job.shape, profile, device, bound - others, degree)


def _held_stages(job: JobView, group: Group) -> tuple[str, ...]:
    n = 0
    while n < len(job.pending) and (job.model, job.pending[n]) in group.usable:
        n += 1
    return job.pending[:n]
