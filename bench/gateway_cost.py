"""What does the gateway itself cost for each request?

A real gateway process over two workers that answer at once, so that the gateway is all there is: one client
keeps 1, 64 or 256 requests open. Processor time is the gateway's own, of all its threads, as the kernel
counts it; a second run of each level under a profiler says which part it went to.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gateway_parts import seconds_by_part, slowest
from bench.load import TimedRequest, closed_loop
from bench.node import Node, NodeConfig, NodeFailed
from bench.processes import cpu_s
from bench.stats import percentiles

N_WORKERS = 2
_N_WARM_UPS = 50
_N_SLOWEST = 15
_PROFILE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`levels`: open requests, each with how many requests are sent at it, `n_repeats` times."""

    model: str
    levels: tuple[tuple[int, int], ...]
    steps: int
    n_repeats: int
    folder: Path

    def node(self, name: str, profile: Path) -> Node:
        config = NodeConfig(
            name=f"cost-{name}",
            folder=self.folder,
            model=self.model,
            workers=("--cpu", str(N_WORKERS)),
            placement="colocated",
            flags=("--profile", "off", "--max-queued", "10000", "--log-level", "warning"),
        )
        return Node(config, command=(sys.executable, "-m", "bench.instant_gateway", str(profile)))

    def requests(self, n: int, of: str) -> list[TimedRequest]:
        """Of different prompts, so that each is encoded."""
        return [TimedRequest(prompt=f"{of} {i}", seed=i, steps=self.steps) for i in range(n)]


async def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """The numbers. Raises `NodeFailed`; cancellation stops the gateway that runs."""
    measured: dict[int, list[dict[str, Any]]] = {n_open: [] for n_open, _ in plan.levels}
    for _ in range(plan.n_repeats):
        for n_open, n_requests in plan.levels:
            async with plan.node(f"{n_open}", _profile(plan, n_open)) as node:
                one = await _measured(node, plan, n_open, n_requests)
            measured[n_open].append(one)
            say(
                f"{n_open} open: {one['requests_per_s']:.0f} requests/s,"
                f" {one['cpu_ms']:.2f} ms of processor time each"
            )
    levels = [await _level(plan, n_open, n, measured[n_open]) for n_open, n in plan.levels]
    return {
        "benchmark": "gateway_cost",
        "question": "What does the gateway itself cost for each request?",
        "model": plan.model,
        "workers": N_WORKERS,
        "steps": plan.steps,
        "repeats": plan.n_repeats,
        "levels": levels,
    }


async def _level(plan: Plan, n_open: int, n_requests: int, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The repeats summed up, with the parts from a further run under the profiler."""
    profile = _profile(plan, n_open)
    profile.unlink(missing_ok=True)
    async with plan.node(f"{n_open}-profiled", profile) as node:
        os.kill(node.pid, signal.SIGUSR1)
        await _measured(node, plan, n_open, n_requests)
        os.kill(node.pid, signal.SIGUSR2)

        async def is_written() -> bool:
            return profile.exists()

        await node.wait_until(is_written, "the profile", timeout_s=_PROFILE_S)
    cpu_ms = percentiles([one["cpu_ms"] for one in measured], 50)
    seconds = seconds_by_part(profile)
    share = cpu_ms["p50"] / sum(seconds.values())
    return {
        "open": n_open,
        "n": n_requests,
        "cpu_ms": cpu_ms,
        "cpu_ms_raw": [one["cpu_ms"] for one in measured],
        "requests_per_s": percentiles([one["requests_per_s"] for one in measured], 50),
        "latency_ms": percentiles([ms for one in measured for ms in one["latency_ms"]], 20, 50, 80, 95),
        "parts_ms": {
            part: round(share * own_s, 4) for part, own_s in sorted(seconds.items(), key=lambda i: -i[1])
        },
        "slowest": [
            {"function": name, "ms_per_request": round(share * own_s, 4), "calls": calls}
            for name, own_s, calls in slowest(profile, _N_SLOWEST)
        ],
    }


def _profile(plan: Plan, n_open: int) -> Path:
    return plan.folder / f"cost-{n_open}.prof"


async def _measured(node: Node, plan: Plan, n_open: int, n_requests: int) -> dict[str, Any]:
    await closed_loop(node.base_url, plan.requests(_N_WARM_UPS, "warm-up"), concurrency=n_open)
    before_s, began_s = cpu_s(node.pid), time.monotonic()
    results = await closed_loop(node.base_url, plan.requests(n_requests, "cost"), concurrency=n_open)
    took_s, used_s = time.monotonic() - began_s, cpu_s(node.pid) - before_s
    if failed := [result for result in results if not result.ok]:
        raise NodeFailed(f"request {failed[0].index + 1} failed: {failed[0].error}")
    return {
        "requests_per_s": round(n_requests / took_s, 2),
        "cpu_ms": round(1000 * used_s / n_requests, 4),
        "latency_ms": [round(1000 * result.latency_s, 2) for result in results],
    }
