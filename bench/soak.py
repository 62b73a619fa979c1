"""Does a node that was under load for minutes hold as much afterwards as it did before?

The load rises: one client after the other joins, each sends its next request when it has its answer, and
every prompt is another one. Then the clients leave and the node is left alone. Every second it is looked at
from outside: memory, descriptors and threads of the gateway and of each worker, files in shared memory,
requests, and how long the gateway takes to answer `/health`, which is how long its event loop is held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.load import Result, TimedRequest, closed_loop
from bench.node import GATEWAY, Node, NodeConfig
from bench.processes import folder_files, n_descriptors, n_threads
from bench.pss import pss_bytes

_EVERY_S = 1.0
_DRAIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`devices`: the gateway's flags for real workers; None for two that answer at once."""

    model: str
    devices: tuple[str, ...] | None
    load_s: float
    idle_s: float
    max_open: int
    steps: int
    folder: Path

    def node(self) -> Node:
        instant = (sys.executable, "-m", "bench.instant_gateway", str(self.folder / "soak.prof"))
        config = NodeConfig(
            name="soak",
            folder=self.folder,
            model=self.model,
            workers=self.devices or ("--cpu", "2"),
            placement="colocated",
            flags=("--profile", "off", "--max-queued", "10000", "--log-level", "warning"),
        )
        return Node(config, command=instant if self.devices is None else GATEWAY)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one process holds."""

    pss_bytes: int
    n_descriptors: int
    n_threads: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The node at one moment, `at_s` from the start of the load. `store_bytes` without known encodes."""

    at_s: float
    n_clients: int
    n_answered: int
    health_ms: float
    n_open: int
    store_bytes: int
    store_files: int
    kept_bytes: int
    processes: dict[str, Holding]


@dataclass
class Soak:
    """`load_end_s`: when the last client had left. `outcomes`: replies by status, or by error."""

    plan: Plan
    samples: list[Sample] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    load_end_s: float = 0.0


class _Load:
    """Clients that join one after the other until the end."""

    def __init__(self, plan: Plan, base_url: str) -> None:
        self.n_clients = 0
        self.outcomes: Counter[str] = Counter()
        self._plan = plan
        self._base_url = base_url
        self._n_sent = 0
        self._until_s = 0.0

    async def run(self) -> None:
        self._until_s = time.monotonic() + self._plan.load_s
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.max_open):
                group.create_task(self._client())
                await asyncio.sleep(self._plan.load_s / self._plan.max_open)

    async def _client(self) -> None:
        self.n_clients += 1
        await closed_loop(self._base_url, self._requests(), concurrency=1, keep=False, on_done=self._done)
        self.n_clients -= 1

    def _requests(self) -> Iterator[TimedRequest]:
        while time.monotonic() < self._until_s:
            self._n_sent += 1
            yield TimedRequest(prompt=f"thing {self._n_sent}", seed=self._n_sent, steps=self._plan.steps)

    def _done(self, result: Result) -> None:
        self.outcomes[str(result.status or result.error)] += 1


async def run(plan: Plan, say: Callable[[str], None]) -> Soak:
    """Load and idle. Raises `NodeFailed`; cancellation stops the gateway."""
    soak = Soak(plan)
    async with plan.node() as node, aiohttp.ClientSession(node.base_url) as session:
        # the first request of all makes what is made once: connections, threads, caches
        await closed_loop(node.base_url, [TimedRequest(prompt="first", seed=0)], concurrency=1)
        start_s = time.monotonic()
        load = _Load(plan, node.base_url)

        async def watch(until_s: float) -> None:
            while time.monotonic() < until_s:
                soak.samples.append(await _sample(node, session, load, start_s))
                await asyncio.sleep(_EVERY_S)

        await watch(start_s + 3 * _EVERY_S)
        watching = asyncio.create_task(watch(float("inf")))
        try:
            say(f"load for {plan.load_s:.0f} s")
            async with asyncio.timeout(plan.load_s + _DRAIN_S):
                await load.run()
            soak.load_end_s = time.monotonic() - start_s
            say(f"{load.outcomes.total()} requests; idle for {plan.idle_s:.0f} s")
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        await watch(time.monotonic() + plan.idle_s)
    soak.outcomes = load.outcomes
    return soak


async def _sample(node: Node, session: aiohttp.ClientSession, load: _Load, start_s: float) -> Sample:
    began_s = time.monotonic()
    async with session.get("/health") as reply:
        await reply.read()
    health_ms = 1000 * (time.monotonic() - began_s)
    kept_bytes = int(await node.metric("triptych_encode_cache_bytes"))
    n_open = int(await node.metric("triptych_open_requests"))
    sizes = folder_files(node.runtime_folder() / "handoff")
    pids = {"gateway": node.pid, **node.worker_pids()}
    return Sample(
        at_s=began_s - start_s,
        n_clients=load.n_clients,
        n_answered=load.outcomes.total(),
        health_ms=health_ms,
        n_open=n_open,
        store_bytes=sum(sizes) - kept_bytes,
        store_files=len(sizes),
        kept_bytes=kept_bytes,
        processes={
            name: Holding(
                pss_bytes=pss_bytes(pid), n_descriptors=n_descriptors(pid), n_threads=n_threads(pid)
            )
            for name, pid in pids.items()
        },
    )
