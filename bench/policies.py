"""What do the planner's policies make of one load on real workers?

One gateway at a time, the same but for `--policy` and `--planner-off`, over two CPU workers: pictures of
mixed sizes arrive at random times, each with a deadline of a multiple of what its size takes. Every policy
gets the very same arrivals, in turns, at several loads. Load 1.0 is what both workers make without a pause:
what a size takes is measured first, with both of them busy, since they share the machine.

A run consists of blocks, each with arrivals of its own, that every policy gets before the next one begins:
a shared machine's speed drifts by several percent within minutes, and all of them are to meet it alike.

First come, first served never drops anything; the others may drop what cannot be in time, which counts as
missed. Pictures are compared over all policies: those that say bitwise must be the same bytes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.arrivals import Kind, poisson
from bench.load import Result, TimedRequest, closed_loop, open_loop
from bench.mix import prompts
from bench.node import Node, NodeConfig, NodeFailed
from bench.policies_check import Pictures
from pipelines.catalogue import Model
from planner.types import Shape

N_WORKERS = 2
LOADS = (0.7, 0.9, 1.1)
PARTS_LOAD = 1.1
"""Where parts are switched off one by one: with enough waiting that each has something to do."""

SIDES_PX = (64, 128, 192, 256)
SLO_SCALE = 2.5
"""A deadline over what the picture takes. Source: TridentServe (arXiv 2510.02838)."""

SWITCHED = ("rejects", "batches", "joins", "pauses", "places")
"""The others do nothing here: nobody agreed to fewer steps, and there is no degree above 1."""

_BUSY_PARTS = ("encode", "diffuse", "decode", "finish")
_EFFECTS = ("run", "join", "pause", "reject", "load", "evict")
_DROPPED = frozenset({429, 504})


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to decide. `drops`: its requests say `drop_if_late`."""

    name: str
    policy: str = "triptych"
    off: tuple[str, ...] = ()
    drops: bool = True

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--policy", self.policy, *(word for part in self.off for word in ("--planner-off", part)))


POLICIES = (
    Variant(name="triptych"),
    Variant(name="fair", policy="fair"),
    Variant(name="fcfs", policy="fcfs", drops=False),
)
PARTS = tuple(Variant(name=f"without {part}", off=(part,)) for part in SWITCHED)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`span_s`: how long requests arrive in each block. `n_rounds`: how often each size is timed before.

    Parts are switched off in the first block of the first `n_parts_runs` of `n_runs`.
    """

    name: str
    model: Model
    folder: Path
    steps: int
    span_s: float
    n_runs: int
    n_blocks: int
    n_parts_runs: int
    n_rounds: int
    seed: int
    loads: tuple[float, ...] = LOADS
    variants: tuple[Variant, ...] = POLICIES
    parts: tuple[Variant, ...] = PARTS
    profile_bound_s: float = 20.0
    flags: tuple[str, ...] = ()

    def node(self, variant: Variant, name: str) -> Node:
        flags = (
            *("--profiles", str(self.folder / "profiles")),
            *("--profile-bound-s", f"{self.profile_bound_s:g}"),
            # every prompt is encoded, however often it was asked for
            *("--encode-cache-bytes", "0"),
            *("--max-queued", "10000"),
            *("--log-level", "warning"),
            *variant.flags,
            *self.flags,
        )
        config = NodeConfig(
            name=name, folder=self.folder, model=self.name, workers=("--cpu", str(N_WORKERS)), flags=flags
        )
        return Node(config)

    def kinds(self, alone_s: dict[int, float]) -> tuple[Kind, ...]:
        return tuple(
            Kind(self.name, Shape(side, side), self.steps, SLO_SCALE * alone_s[side], alone_s[side])
            for side in self.sides_px
        )

    @property
    def sides_px(self) -> tuple[int, ...]:
        """Those that the model can make."""
        model = self.model
        able = (
            side
            for side in SIDES_PX
            if model.min_size_px <= side <= model.max_size_px and side % model.size_multiple_px == 0
        )
        return tuple(able) or (model.default_size_px[0],)


async def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """All cells, and what is wrong with pictures. Raises `NodeFailed`; cancellation stops the gateway."""
    say("measuring what each size takes with both workers busy")
    alone_s = await _alone_s(plan)
    say(", ".join(f"{side} px {seconds:.2f} s" for side, seconds in alone_s.items()))
    pictures = Pictures()
    cells = []
    for number, load, block in product(range(plan.n_runs), plan.loads, range(plan.n_blocks)):
        has_parts = load == PARTS_LOAD and number < plan.n_parts_runs and block == 0
        variants = plan.variants + (plan.parts if has_parts else ())
        # each goes first in another block: a machine that gets slower is nobody's fault
        turn = (number * plan.n_blocks + block) % len(variants)
        for variant in (*variants[turn:], *variants[:turn]):
            requests = _requests(plan, alone_s, f"{number} {load} {block}", load, drops=variant.drops)
            result = await _cell(plan, variant, requests, pictures)
            cells.append({"variant": variant.name, "load": load, "run": number, "block": block, **result})
            say(
                f"run {number + 1}, load {load:g}, block {block + 1}, {variant.name}:"
                f" {result['attainment']:.1%} of {len(requests)} in time,"
                f" mean {result['mean_s'] or 0.0:.2f} s"
            )
    return {
        "benchmark": "policies",
        "question": "What do the planner's policies make of one load on real workers?",
        "model": plan.name,
        "workers": N_WORKERS,
        "steps": plan.steps,
        "sides_px": plan.sides_px,
        "span_s": plan.span_s,
        "runs": plan.n_runs,
        "blocks": plan.n_blocks,
        "seed": plan.seed,
        "slo_scale": SLO_SCALE,
        "alone_s": {str(side): round(seconds, 4) for side, seconds in alone_s.items()},
        "capacity_per_s": round(N_WORKERS / fmean(alone_s.values()), 4),
        "pictures": pictures.found(),
        "cells": cells,
    }


async def _alone_s(plan: Plan) -> dict[int, float]:
    """Seconds that a worker is busy with one picture of each size, while the other is busy as well."""
    names = cycle(prompts(plan.model))
    asked = [
        TimedRequest(prompt=next(names), seed=i, steps=plan.steps, size=_size(side))
        for i, side in enumerate(islice(cycle(plan.sides_px), plan.n_rounds * len(plan.sides_px)))
    ]
    warm = [TimedRequest(prompt=next(names), seed=0, steps=2, size=_size(side)) for side in plan.sides_px]
    async with plan.node(POLICIES[-1], "policies-alone") as node:
        await _all_warm(node)
        await closed_loop(node.base_url, [*warm, *warm], concurrency=N_WORKERS)
        results = await closed_loop(node.base_url, asked, concurrency=N_WORKERS)
    if failed := [result for result in results if not result.ok]:
        raise NodeFailed(f"request {failed[0].index + 1} failed: {failed[0].error}")
    return {
        side: median(_busy_s(result) for result in results if result.request.size == _size(side))
        for side in plan.sides_px
    }


def _requests(
    plan: Plan, alone_s: dict[int, float], block: str, load: float, *, drops: bool
) -> list[TimedRequest]:
    """The same for every policy in a block."""
    rng = random.Random(f"{plan.seed} {block}")
    names = cycle(prompts(plan.model))
    return [
        TimedRequest(
            prompt=next(names),
            seed=plan.seed + index,
            steps=plan.steps,
            size=_size(arrival.shape.width_px),
            slo_ms=round(1000 * arrival.slo_s, 1),
            at_s=arrival.at_s,
            fields={"drop_if_late": True} if drops else {},
        )
        for index, arrival in enumerate(poisson(plan.kinds(alone_s), load * N_WORKERS, plan.span_s, rng))
    ]


async def _cell(
    plan: Plan, variant: Variant, requests: Sequence[TimedRequest], pictures: Pictures
) -> dict[str, Any]:
    async with plan.node(variant, "policies") as node:
        await _all_warm(node)
        results = await open_loop(node.base_url, requests)
        effects = {
            effect: int(await node.metric("triptych_planner_effects_total", effect=effect))
            for effect in _EFFECTS
        }
    wrong = [result for result in results if not result.ok and result.status not in _DROPPED]
    if wrong:
        raise NodeFailed(f"request {wrong[0].index + 1} failed: {wrong[0].error}")
    pictures.seen(results)
    return {"effects": effects, **summed_up(results)}


def summed_up(results: Sequence[Result]) -> dict[str, Any]:
    """Of one cell. `attainment` is over all arrivals, latencies (seconds) are of those that were served.

    `took_s`: from the first arrival to the last answer.
    """
    served_s = [result.latency_s for result in results if result.ok]
    met = sum(result.deadline_met is True for result in results)
    return {
        "n": len(results),
        "met": met,
        "attainment": met / len(results),
        "mean_s": fmean(served_s) if served_s else None,
        "took_s": max(r.due_s + r.latency_s for r in results) - min(r.due_s for r in results),
        "raw": [
            [
                result.request.size,
                round(result.request.at_s, 3),
                result.status,
                round(result.latency_s, 4),
                result.deadline_met,
            ]
            for result in results
        ],
        "statuses": dict(sorted(Counter(str(result.status) for result in results).items())),
        "batched": sum(result.exactness == "numeric" for result in results),
    }


async def _all_warm(node: Node) -> None:
    async def warm() -> bool:
        workers = (await node.fleet())["workers"]
        return all(w["resident"] and not w["loading"] and w["task"] is None for w in workers)

    await node.wait_until(warm, "all workers to hold every stage")


def _size(side_px: int) -> str:
    return f"{side_px}x{side_px}"


def _busy_s(result: Result) -> float:
    return sum(result.timing_ms.get(part, 0.0) for part in _BUSY_PARTS) / 1000
