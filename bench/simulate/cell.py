"""One cell of a comparison: a fleet, arrivals, and a policy that is run on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.arrivals import Arrival, arrivals
from bench.bound import bound
from bench.costs import Costs
from bench.simulate.config import FleetConfig
from bench.simulate.fleet import Fleet
from bench.simulate.result import report
from bench.simulate.save import Recorder
from bench.simulate.simulator import simulate
from planner import PlannerConfig, decide, initial_state

DROPPING = frozenset({"triptych", "fair"})
"""Policies that drop work which cannot be on time, unless nobody is to; the others serve it late."""


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

    def bounded(self) -> dict[str, float]:
        """What no policy can pass on it; see `bench.bound`."""
        found = bound(self.costs, self.arrivals(), self.fleet.n_gpus)
        return {"attainment": found.attainment, "n": found.n_jobs, "bucket_s": found.bucket_s}


def config_of(policy: str) -> PlannerConfig:
    """`name`, or `name:degree` for one with a static degree. Raises `UnknownPolicy`."""
    name, _, degree = policy.partition(":")
    if degree and not degree.isdecimal():
        raise UnknownPolicy(f"{policy}: {degree!r} is no degree")
    return PlannerConfig(policy=name, static_degree=int(degree or 1))


def run_cell(cell: Cell, policy: str, recorder: Recorder | None = None) -> dict[str, Any]:
    """The report of one simulation. `recorder` is told everything that happens.

    Raises `EffectRefused` if the policy asks for what cannot be done, and `UnknownPolicy`.
    """
    config = config_of(policy)
    drops = config.policy in DROPPING and not cell.nobody_drops
    fleet = Fleet(cell.costs, replace(cell.fleet, drop_if_late=drops), cell.arrivals())
    if recorder is not None:
        recorder.watch(fleet)
    profile = cell.costs.profile(error=cell.profile_error, seed=cell.seed)
    decisions = simulate(
        fleet,
        decide,
        initial_state(config, profile),
        on_effect=None if recorder is None else recorder.effect,
    )
    return {**cell.label(), "policy": policy, "drops": drops, **report(fleet, decisions)}
