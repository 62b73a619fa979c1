"""One cell of a comparison: a fleet, arrivals, and a policy that is run on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bench.arrivals import Arrival, arrivals
from bench.bound import bound
from bench.costs import Costs
from bench.simulate.config import FleetConfig
from bench.simulate.fleet import Fleet
from bench.simulate.parts import Outcome
from bench.simulate.result import report
from bench.simulate.save import Recorder
from bench.simulate.simulator import Decisions, simulate
from planner import PlannerConfig, decide, initial_state
from planner.types import Expected, Parts

DROPPING = frozenset({"triptych", "fair", "lego"})
"""Policies that drop work which cannot be on time, unless nobody is to; the others serve it late."""

HELD_WHOLE = frozenset({"fair", "fcfs", "b1", "b2", "b3", "b4"})
"""Policies that hold whole pipelines only: where memory is bounded there are mixes that they cannot serve."""

PARTS = tuple(part.name for part in fields(Parts))


class UnknownPolicy(ValueError):
    """A policy's name cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`process` of arrivals at `load` for `span_s`. `trace`: those instead. `nobody_drops`: late work is
    served by every policy. `profile_error`: of what the planner thinks that stages cost."""

    costs: Costs
    process: str
    load: float
    span_s: float
    seed: int
    fleet: FleetConfig
    fastest_slo: bool = False
    nobody_drops: bool = False
    profile_error: float = 0.0
    trace: tuple[Arrival, ...] | None = None

    def arrivals(self) -> Sequence[Arrival]:
        if self.trace is not None:
            return self.trace
        return arrivals(
            self.costs,
            self.process,
            load=self.load,
            n_gpus=self.fleet.n_gpus,
            span_s=self.span_s,
            seed=self.seed,
            fastest_slo=self.fastest_slo,
        )

    def label(self) -> dict[str, Any]:
        """What sets it apart in a report."""
        return {
            "models": sorted(self.costs.models),
            "arrivals": self.process,
            "load": self.load,
            "seed": self.seed,
        }

    def is_too_large(self, policy: str) -> bool:
        """Whether a shape of the mix fits nowhere beside all of its model's weights, which `policy` needs."""
        bound = self.costs.memory_bytes
        if bound is None or config_of(policy).policy not in HELD_WHOLE:
            return False
        return any(
            model.whole_bytes(shape) > bound for model in self.costs.models.values() for shape in model.mix
        )

    def bounded(self) -> dict[str, float]:
        """What no policy can pass on it; see `bench.bound`."""
        found = bound(self.costs, self.arrivals(), self.fleet.n_gpus)
        return {"attainment": found.attainment, "n": found.n_jobs, "bucket_s": found.bucket_s}


def config_of(policy: str) -> PlannerConfig:
    """`name`, `name:degree` for one with a static degree, `name-part-part` with parts of the planner off.

    Raises `UnknownPolicy`.
    """
    named, *off = policy.split("-")
    name, _, degree = named.partition(":")
    if degree and not degree.isdecimal():
        raise UnknownPolicy(f"{policy}: {degree!r} is no degree")
    if unknown := [part for part in off if part not in PARTS]:
        raise UnknownPolicy(f"{policy}: {unknown[0]!r} is none of the parts {', '.join(PARTS)}")
    parts = Parts(**dict.fromkeys(off, False))
    return PlannerConfig(policy=name, static_degree=int(degree or 1), parts=parts)


def expected(costs: Costs) -> tuple[Expected, ...]:
    """What a policy that is set up by hand is told: the shapes that are asked for, not how often."""
    return tuple(
        Expected(name, shape, model.steps) for name, model in costs.models.items() for shape in model.mix
    )


def run_cell(cell: Cell, policy: str, recorder: Recorder | None = None) -> dict[str, Any]:
    """The report of one simulation. `recorder` is told everything that happens.

    A policy that cannot hold what it needs is not simulated: nothing is served, for want of memory.
    Raises `EffectRefused` if the policy asks for what cannot be done, and `UnknownPolicy`.
    """
    config = replace(config_of(policy), expected=expected(cell.costs))
    drops = config.policy in DROPPING and not cell.nobody_drops
    too_large = cell.is_too_large(policy)
    fleet = Fleet(cell.costs, replace(cell.fleet, drop_if_late=drops), cell.arrivals())
    if recorder is not None:
        recorder.watch(fleet)
    if too_large:
        fleet.book.refuse_all(Outcome.OUT_OF_MEMORY)
        decisions = Decisions()
    else:
        decisions = simulate(
            fleet,
            decide,
            initial_state(config, cell.costs.profile(error=cell.profile_error, seed=cell.seed)),
            on_effect=None if recorder is None else recorder.effect,
        )
    label = {**cell.label(), "policy": policy, "drops": drops, "too_large": too_large}
    return {**label, **report(fleet, decisions)}
