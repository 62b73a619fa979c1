"""What is simulated: every policy on every cell of a grid, and small grids that vary one thing at a time.

Nothing runs here. A `Work` is one simulation, or one bound, and says by itself how it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

from bench.costs_l20 import l20
from bench.simulate import FleetConfig
from bench.simulate.cell import PARTS, Cell

MINUTES: Mapping[str, float] = MappingProxyType(
    {"sd3": 4.0, "flux": 10.0, "cogvideox": 15.0, "hunyuanvideo": 30.0}
)
"""Of arrivals, by model: whole spikes, and at least three times the longest deadline (24, 209,
136 and 385 s). At load 1.0 128 GPUs get 28, 3.8, 1.7 and 0.6 jobs a second. What a simulation costs goes by
jobs, and the whole grid is to fit in 45 minutes of two cores: so SD3's trace is the shortest."""

ARRIVALS = ("even", "poisson", "burst", "shift")
LOADS = (0.6, 0.8, 1.0, 1.2)
N_SEEDS = 3
N_GPUS = 128

OURS, FAIR, TRIDENT, LEGO = "triptych", "fair", "trident", "lego"
B1 = ("b1:1", "b1:2", "b1:4", "b1:8")
"""The static baseline at each degree, of which the best one of each cell is reported."""

POLICIES = (OURS, FAIR, *B1, "b2", "b3", "b4", "b5", "b6", TRIDENT, LEGO)
BOUND = "bound"
"""Stands for a policy in a `Work`: what none can pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all policies meet alike. `name` sets it apart in a table; factors are of the stages' seconds."""

    name: str = ""
    n_gpus: int = N_GPUS
    view: str = "resident"
    nobody_drops: bool = False
    fastest_slo: bool = False
    stage_x: Mapping[str, float] = field(default_factory=dict)
    resume_s: float | None = None
    profile_error: float = 0.0

    def cell(self, model: str, arrivals: str, load: float, seed: int, minutes: float) -> Cell:
        costs = l20(model, view=self.view).scaled(self.stage_x)
        if self.resume_s is not None:
            costs = costs.with_resume(self.resume_s)
        return Cell(
            costs=costs,
            process=arrivals,
            load=load,
            span_s=60 * minutes,
            seed=seed,
            fleet=FleetConfig(n_gpus=self.n_gpus, warm=costs.memory_bytes is None, seed=seed),
            fastest_slo=self.fastest_slo,
            nobody_drops=self.nobody_drops,
            profile_error=self.profile_error,
        )


Key = tuple[str, str, str, float, int, str]
"""World, model, arrivals, load, seed, policy: what sets a simulation apart from the others of its grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One simulation, or one bound."""

    world: World
    model: str
    arrivals: str
    load: float
    seed: int
    policy: str
    minutes: float

    @property
    def key(self) -> Key:
        return (self.world.name, self.model, self.arrivals, self.load, self.seed, self.policy)

    def cell(self) -> Cell:
        return self.world.cell(self.model, self.arrivals, self.load, self.seed, self.minutes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A grid. `minutes_x`: times the minutes of each model, for a look that need not be exact."""

    name: str
    question: str
    worlds: tuple[World, ...] = (World(),)
    models: tuple[str, ...] = tuple(MINUTES)
    arrivals: tuple[str, ...] = ARRIVALS
    loads: tuple[float, ...] = LOADS
    policies: tuple[str, ...] = POLICIES
    n_seeds: int = N_SEEDS
    minutes_x: float = 1.0

    def minutes(self, model: str) -> float:
        return MINUTES[model] * self.minutes_x

    def works(self) -> Sequence[Work]:
        """In the order of the report."""
        cells = product(self.worlds, self.models, self.arrivals, self.loads, range(self.n_seeds))
        return [
            Work(
                world=world,
                model=model,
                arrivals=arrivals,
                load=load,
                seed=seed,
                policy=policy,
                minutes=self.minutes(model),
            )
            for world, model, arrivals, load, seed in cells
            for policy in (BOUND, *self.policies)
        ]


def main_plan(*, view: str = "resident", nobody_drops: bool = False, fastest_slo: bool = False) -> Plan:
    """The whole grid, in one of its views."""
    world = World(view=view, nobody_drops=nobody_drops, fastest_slo=fastest_slo)
    question = "How much of a load is on time, and how fast, under each policy on the same simulated GPUs?"
    return Plan(name="rivals", question=question, worlds=(world,))


def _parts() -> Plan:
    return Plan(
        name="parts",
        question="What does each part of the planner give? It is switched off, alone.",
        arrivals=("poisson", "burst"),
        loads=(0.8, 1.0, 1.2),
        policies=(OURS, *(f"{OURS}-{part}" for part in PARTS)),
        n_seeds=1,
    )


def _costs() -> Plan:
    factors = {"text_encoder": (0.5, 2.0), "decode": (0.5, 2.0, 6.0)}
    names = {"text_encoder": "encode", "decode": "decode"}
    varied = [
        World(name=f"{names[stage]} x{x:g}", stage_x={stage: x}) for stage, xs in factors.items() for x in xs
    ]
    return Plan(
        name="costs",
        question="How much hangs on the derived seconds of encode and decode?",
        worlds=(World(name="as derived"), *varied),
        arrivals=("poisson", "burst"),
        loads=(1.0,),
        policies=(OURS, FAIR, TRIDENT),
        n_seeds=1,
    )


def _resume() -> Plan:
    return Plan(
        name="resume",
        question="How much hangs on what going on from a checkpoint costs?",
        worlds=tuple(World(name=f"{ms} ms", resume_s=ms / 1000) for ms in (10, 40, 100, 200, 400)),
        arrivals=("poisson", "burst"),
        loads=(0.8, 1.0),
        policies=(OURS, FAIR),
        n_seeds=1,
    )


def _error() -> Plan:
    return Plan(
        name="error",
        question="What does a profile cost that is wrong by up to 20 % at every stage and shape?",
        worlds=(World(name="exact"), World(name="20 % off", profile_error=0.2)),
        arrivals=("poisson", "burst"),
        loads=(0.8, 1.0, 1.2),
        policies=(OURS, FAIR, TRIDENT),
        n_seeds=1,
    )


def _scale() -> Plan:
    return Plan(
        name="scale",
        question="What do decisions take on larger fleets, and is as much on time there?",
        worlds=tuple(World(name=f"{n} GPUs", n_gpus=n) for n in (128, 256, 512, 1024, 2048, 4096)),
        models=("flux",),
        arrivals=("poisson",),
        loads=(1.0,),
        policies=(OURS,),
        n_seeds=1,
        minutes_x=0.2,
    )


STUDIES: Mapping[str, Callable[[], Plan]] = MappingProxyType(
    {"parts": _parts, "costs": _costs, "resume": _resume, "error": _error, "scale": _scale}
)
"""Small grids, by name."""
