"""Does a simulation say what a live run does?

One gateway over two CPU workers gets pictures of the sizes that its profile was measured at, at random times,
each with a deadline. Beside it a fleet of two is simulated from two things alone: those arrivals, and the
profile that the workers had measured before, as a minute of other arrivals has corrected it. What was
measured with one worker busy takes longer with two, which the profile learns, and a simulation cannot know.
Both decide by the same planner, which may drop what cannot be on time.

The simulation has no batches and nothing joins a running loop, so neither has the live planner here; every
prompt is encoded anew in both. What the simulation leaves out are the messages and the picture's file.

Everything that the live planner was told and said is recorded, too, and replayed through the same core: the
effects must be the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.arrivals import Arrival, kinds_of, poisson
from bench.costs import Costs
from bench.costs_measured import ProfileUnreadable, measured_costs
from bench.load import Result, TimedRequest, open_loop
from bench.mix import prompts
from bench.node import Node, NodeConfig, NodeFailed
from bench.replay import Replay, replay
from bench.simulate import Fleet, FleetConfig, simulate
from bench.simulate.result import report
from bench.stats import percentile
from gateway.records import from_bytes
from pipelines.catalogue import Model
from pipelines.families import is_guided
from planner import PlannerConfig, decide, initial_state
from planner.profile import Profile
from planner.types import Parts

N_WORKERS = 2
LOADS = (0.7, 0.9, 1.1)
GOAL_POINTS = 5.0
"""How far the simulated SLO attainment may be from the live one."""

WARM_UP_S, WARM_UP_LOAD = 60.0, 0.9
"""Of the arrivals that correct the profile."""

OFF = ("batches", "joins")
_DROPPED = frozenset({429, 504})


class OtherEffects(Exception):
    """A recorded decision was not made again."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`span_s`: how long requests arrive in each cell."""

    name: str
    model: Model
    folder: Path
    span_s: float
    n_runs: int
    seed: int
    loads: tuple[float, ...] = LOADS
    profile_bound_s: float = 30.0
    flags: tuple[str, ...] = ()

    @property
    def profiles(self) -> Path:
        return self.folder / "parity-profiles"

    @property
    def recording(self) -> Path:
        return self.folder / "parity.recording"

    def node(self) -> Node:
        flags = (
            *("--profiles", str(self.profiles)),
            *("--profile-bound-s", f"{self.profile_bound_s:g}"),
            *("--encode-cache-bytes", "0"),
            *("--max-queued", "10000"),
            *("--log-level", "warning"),
            *("--record", str(self.recording)),
            *(word for part in OFF for word in ("--planner-off", part)),
            *self.flags,
        )
        workers = ("--cpu", str(N_WORKERS))
        config = NodeConfig(name="parity", folder=self.folder, model=self.name, workers=workers, flags=flags)
        return Node(config)


async def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """All cells. Raises `NodeFailed`, `OtherEffects`, `ProfileUnreadable`; cancellation stops the gateway."""
    for file in plan.profiles.glob("*.json"):
        file.unlink()
    say("measuring the model")
    async with plan.node():
        pass
    costs = asked_costs(plan)
    say("correcting what was measured by what tasks take")
    others = arrivals(costs, WARM_UP_LOAD, WARM_UP_S, random.Random(f"{plan.seed} warm-up"))
    _, replayed = await _served(plan, others)
    assert replayed.state is not None
    seen = corrected(costs, replayed.state.profile)
    cells = []
    for number in range(plan.n_runs):
        for load in plan.loads:
            asked = arrivals(costs, load, plan.span_s, random.Random(f"{plan.seed} {number} {load}"))
            cell = {"run": number, "load": load, **await _cell(plan, costs, seen, asked)}
            cells.append(cell)
            say(
                f"run {number + 1}, load {load:g}: {cell['live']['attainment']:.1%} of {len(asked)} on time,"
                f" simulated {cell['simulated']['attainment']:.1%}; {cell['decisions']} decisions replayed"
            )
    (model,) = costs.models.values()
    return {
        "benchmark": "parity",
        "question": "Does a simulation say what a live run does?",
        "model": plan.name,
        "workers": N_WORKERS,
        "steps": model.steps,
        "alone_s": {
            f"{shape.width_px}x{shape.height_px}": round(model.latency_s(shape, 1), 4) for shape in model.mix
        },
        "span_s": plan.span_s,
        "runs": plan.n_runs,
        "seed": plan.seed,
        "goal_points": GOAL_POINTS,
        "warm_up_s": WARM_UP_S,
        "corrected": {stage: round(x, 3) for stage, x in factors(costs, seen).items()},
        "cells": cells,
    }


def asked_costs(plan: Plan) -> Costs:
    """What the workers measured, and of its shapes those that a request can ask for as the model is meant.

    Raises `ProfileUnreadable`.
    """
    files = sorted(plan.profiles.glob("*.json"))
    if len(files) != 1:
        raise ProfileUnreadable(f"{plan.profiles}: {len(files)} profiles instead of one")
    costs = measured_costs(files[0])
    guided = is_guided(plan.model.family_table, plan.model.default_guidance)
    models = {
        name: replace(model, mix=tuple(shape for shape in model.mix if shape.guided == guided))
        for name, model in costs.models.items()
    }
    if not all(model.mix for model in models.values()):
        raise ProfileUnreadable(f"{files[0]}: no shape of the model's usual guidance was measured whole")
    return replace(costs, models=models)


def corrected(costs: Costs, profile: Profile) -> Costs:
    """`costs` at what `profile` expects after the tasks that it has seen: each stage by one factor, the mean
    over the shapes of the mix. `profile` has to have measured all of `costs`.
    """
    models = {}
    for name, model in costs.models.items():
        by_stage = {}
        for stage in model.view.stages:
            ratios = []
            for shape in model.mix:
                expected_s = profile.stage_s(costs.device, model.view, stage, shape, model.steps)
                assert expected_s is not None
                ratios.append(expected_s / model.stage_s(stage, shape, model.steps))
            by_stage[stage] = fmean(ratios)
        models[name] = model.scaled(by_stage)
    return replace(costs, models=models)


def factors(before: Costs, after: Costs) -> dict[str, float]:
    """By what each stage of the one model was corrected."""
    (old,), (new,) = before.models.values(), after.models.values()
    shape = old.mix[0]
    return {
        stage: new.stage_s(stage, shape, old.steps) / old.stage_s(stage, shape, old.steps)
        for stage in old.view.stages
    }


def arrivals(costs: Costs, load: float, span_s: float, rng: random.Random) -> list[Arrival]:
    """At random times. Load 1.0 keeps both workers busy, by what was measured."""
    (name,) = costs.models
    return poisson(kinds_of(costs, name), load * N_WORKERS, span_s, rng)


def simulated(costs: Costs, asked: Sequence[Arrival]) -> dict[str, Any]:
    """Of the same arrivals, from `costs` alone."""
    config = FleetConfig(n_gpus=N_WORKERS, gpus_per_node=N_WORKERS, drop_if_late=True)
    fleet = Fleet(costs, config, asked)
    parts = Parts(**dict.fromkeys(OFF, False))
    decisions = simulate(fleet, decide, initial_state(PlannerConfig(parts=parts), costs.profile()))
    told = report(fleet, decisions)
    served = told["served"]
    return {
        "attainment": told["attainment"],
        "dropped": told["dropped_share"],
        "mean_s": served["mean"],
        "p95_s": served["p95"],
    }


def live(results: Sequence[Result]) -> dict[str, Any]:
    served_s = [result.latency_s for result in results if result.ok]
    return {
        "attainment": sum(result.deadline_met is True for result in results) / len(results),
        "dropped": 1 - len(served_s) / len(results),
        "mean_s": fmean(served_s) if served_s else None,
        "p95_s": percentile(served_s, 95) if served_s else None,
    }


async def _cell(plan: Plan, costs: Costs, seen: Costs, asked: Sequence[Arrival]) -> dict[str, Any]:
    results, replayed = await _served(plan, asked)
    return {
        "n": len(asked),
        "live": live(results),
        "simulated": simulated(seen, asked),
        "as_measured": simulated(costs, asked),
        "decisions": replayed.n_decisions,
        "effects": replayed.n_effects,
    }


async def _served(plan: Plan, asked: Sequence[Arrival]) -> tuple[list[Result], Replay]:
    """By a gateway of its own, and its decisions made again. Raises `NodeFailed`, `OtherEffects`."""
    names = cycle(prompts(plan.model))
    requests = [
        TimedRequest(
            prompt=next(names),
            seed=plan.seed + index,
            steps=arrival.steps,
            size=f"{arrival.shape.width_px}x{arrival.shape.height_px}",
            slo_ms=round(1000 * arrival.slo_s, 1),
            at_s=arrival.at_s,
            fields={"drop_if_late": True},
        )
        for index, arrival in enumerate(asked)
    ]
    async with plan.node() as node:
        await node.wait_until(lambda: _is_warm(node), "all workers to hold every stage")
        results = await open_loop(node.base_url, requests)
    wrong = [result for result in results if not result.ok and result.status not in _DROPPED]
    if wrong:
        raise NodeFailed(f"request {wrong[0].index + 1} failed: {wrong[0].error}")
    replayed = replay(from_bytes(plan.recording.read_bytes()))
    if replayed.differences:
        first = replayed.differences[0]
        raise OtherEffects(
            f"{len(replayed.differences)} of {replayed.n_decisions} recorded decisions are made"
            f" otherwise, the first at {first.at_s:.3f} s; see bench replay {plan.recording}"
        )
    return results, replayed


async def _is_warm(node: Node) -> bool:
    workers = (await node.fleet())["workers"]
    return all(w["resident"] and not w["loading"] and w["task"] is None for w in workers)
