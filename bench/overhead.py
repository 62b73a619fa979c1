"""What does serving cost over a plain loop on the same device?

Requests go one after the other through a gateway with one worker, and the same pictures are made by the same
pipeline in a loop in this process, with as many threads. Both are run in turns within the same minutes, so
that a neighbour on the host slows both. Throughput is requests over the sum of their latencies: what the
client does between two requests is not the server's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.journal import Journal
from bench.load import Result, TimedRequest, closed_loop
from bench.mix import prompts
from bench.overhead_parts import LOOP_PARTS, PARTS, request_parts_ms
from bench.stats import percentiles
from pipelines.catalogue import Model
from wire.generation import Generation

_N_WARM_UPS = 3


class Refused(Exception):
    """There is no result to report; the text says why."""


class LoopResult(Protocol):
    """What the loop tells of one picture."""

    @property
    def seconds(self) -> float: ...
    @property
    def parts_ms(self) -> dict[str, float]: ...
    @property
    def picture(self) -> bytes: ...


RunLoop = Callable[[list[Generation]], Awaitable[Sequence[LoopResult]]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured."""

    name: str
    model: Model
    n_requests: int
    n_repeats: int
    steps: int
    seed: int

    def requests(self, n: int) -> list[TimedRequest]:
        """The first `n`, the same in every repeat."""
        names = prompts(self.model)
        return [
            TimedRequest(prompt=names[i % len(names)], seed=self.seed + i, steps=self.steps) for i in range(n)
        ]

    def generations(self, n: int) -> list[Generation]:
        """The same pictures as the worker will be told to make."""
        width_px, height_px = self.model.default_size_px
        return [
            Generation(
                prompt=request.prompt,
                width_px=width_px,
                height_px=height_px,
                num_inference_steps=self.steps,
                guidance_scale=self.model.default_guidance,
                seed=request.seed,
                num_frames=self.model.default_frames,
            )
            for request in self.requests(n)
        ]


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One turn of both sides."""

    served: list[Result]
    looped: list[LoopResult]


async def measure(plan: Plan, base_url: str, run_loop: RunLoop, say: Callable[[str], None]) -> list[Repeat]:
    """All repeats, the side that goes first alternating. Raises `Refused`."""

    async def served(n: int) -> list[Result]:
        results = await closed_loop(base_url, plan.requests(n), concurrency=1)
        if failed := [result for result in results if not result.ok]:
            raise Refused(f"request {failed[0].index + 1} failed: {failed[0].error}")
        return results

    async def looped(n: int) -> list[LoopResult]:
        return list(await run_loop(plan.generations(n)))

    compare(await served(_N_WARM_UPS), await looped(_N_WARM_UPS))
    repeats: list[Repeat] = []
    for index in range(plan.n_repeats):
        if index % 2 == 0:
            over_http = await served(plan.n_requests)
            alone = await looped(plan.n_requests)
        else:
            alone = await looped(plan.n_requests)
            over_http = await served(plan.n_requests)
        compare(over_http, alone)
        repeats.append(Repeat(served=over_http, looped=alone))
        say(f"repeat {index + 1}/{plan.n_repeats}: throughput ratio {_ratio(repeats[-1]):.3f}")
    return repeats


def compare(served: Sequence[Result], looped: Sequence[LoopResult]) -> None:
    """Raises `Refused` unless both made the same bytes: a faster wrong picture is no result."""
    for result, alone in zip(served, looped, strict=True):
        if result.pictures != (alone.picture,):
            what = f"{result.request.prompt!r}, seed {result.request.seed}"
            raise Refused(f"the pictures of {what} differ between gateway and loop; nothing is reported")


def report(plan: Plan, repeats: Sequence[Repeat], journal: Journal) -> dict[str, Any]:
    """The numbers, raw and summed up. Raises `LookupError` if the journal lacks a request."""
    served = [result for repeat in repeats for result in repeat.served]
    looped = [result for repeat in repeats for result in repeat.looped]
    served_parts = [request_parts_ms(result, journal) for result in served]
    looped_parts = [result.parts_ms for result in looped]
    return {
        "benchmark": "overhead",
        "question": "What does serving cost over a plain loop on the same device?",
        "model": plan.name,
        "n": plan.n_requests,
        "repeats": plan.n_repeats,
        "steps": plan.steps,
        "seed": plan.seed,
        "size_px": list(plan.model.default_size_px),
        "n_pictures_compared": len(served),
        "throughput_unit": "pictures per second",
        "throughput": {
            "gateway": percentiles([len(r.served) / _served_s(r) for r in repeats], 20, 50, 80),
            "loop": percentiles([len(r.looped) / _looped_s(r) for r in repeats], 20, 50, 80),
            "ratio": percentiles([_ratio(repeat) for repeat in repeats], 20, 50, 80),
        },
        "time_unit": "ms per request",
        "total": {
            "gateway": percentiles([1000 * result.latency_s for result in served], 20, 50, 80, 95),
            "loop": percentiles([1000 * result.seconds for result in looped], 20, 50, 80, 95),
        },
        "parts": {
            "gateway": {part: percentiles([p[part] for p in served_parts], 50, 95) for part in PARTS},
            "loop": {part: percentiles([p[part] for p in looped_parts], 50, 95) for part in LOOP_PARTS},
        },
        "raw": {
            "ratio": [round(_ratio(repeat), 5) for repeat in repeats],
            "gateway_ms": [[_ms(result.latency_s) for result in repeat.served] for repeat in repeats],
            "loop_ms": [[_ms(result.seconds) for result in repeat.looped] for repeat in repeats],
            "gateway_parts_ms": {part: [round(p[part], 3) for p in served_parts] for part in PARTS},
            "loop_parts_ms": {part: [round(p[part], 3) for p in looped_parts] for part in LOOP_PARTS},
            "server_timing_ms": [result.timing_ms for result in served],
        },
    }


def _served_s(repeat: Repeat) -> float:
    return sum(result.latency_s for result in repeat.served)


def _looped_s(repeat: Repeat) -> float:
    return sum(result.seconds for result in repeat.looped)


def _ratio(repeat: Repeat) -> float:
    """Throughput through the gateway over that of the loop."""
    return _looped_s(repeat) / _served_s(repeat)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
