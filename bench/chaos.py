"""Does anyone lose a picture when workers are killed and hang?

A gateway serves a mixed load while a killer takes one worker after the other: by SIGKILL, or by SIGSTOP,
which is a hang. It strikes at an interval, a little early or late, and only while every worker is ready. Then
a second gateway, which nobody disturbs, is asked for all pictures that were to be bitwise exact.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.load import Result, TimedRequest, closed_loop
from bench.mix import prompts
from bench.node import GATEWAY, Node, NodeConfig, NodeFailed
from pipelines.catalogue import Model

_POLL_S = 0.2
_RECOVERY_S = 120.0
_LIMIT_S = 1800.0
_RETRIES = ("worker_lost", "given_up", "handoff_lost", "store_full", "paused")

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """At least `n_requests`, and as many more as it takes until `min_kills` have happened.

    A kill is due `kill_every_s` after the one before was overcome, give or take a quarter. `devices`: the
    gateway's flags for its `n_workers` workers. `flags`: further ones of the gateway.
    """

    name: str
    model: Model
    devices: tuple[str, ...]
    n_workers: int
    n_requests: int
    min_kills: int
    kill_every_s: float
    concurrency: int
    heartbeat_timeout_s: float
    seed: int
    folder: Path
    flags: tuple[str, ...] = ()
    command: tuple[str, ...] = GATEWAY

    def node(self, name: str) -> Node:
        config = NodeConfig(
            name=f"chaos-{name}",
            folder=self.folder,
            model=self.name,
            workers=self.devices,
            placement="colocated",
            # what stages cost is of no account here
            flags=("--profile", "off", "--heartbeat-timeout-s", f"{self.heartbeat_timeout_s:g}", *self.flags),
        )
        return Node(config, command=self.command)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What was done to a worker's process, and when, on the journal's clock."""

    worker: str
    how: str
    pid: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """What the killed node did. `left_bytes`: in the handoff store at its end over those at its beginning."""

    results: list[Result]
    kills: list[Kill]
    journal: list[Event]
    retries: dict[str, float]
    restarts: float
    counted: float
    left_bytes: float
    problems: list[str]
    took_s: float


@dataclass
class Chaos:
    """Both runs. `calm`: what the undisturbed one answered, by the index of the request."""

    plan: Plan
    disturbed: Disturbed
    calm: dict[int, Result] = field(default_factory=dict)


def request(plan: Plan, index: int) -> TimedRequest:
    """The `index`-th request of the load: the same for one plan, whatever happened before."""
    draw = random.Random(f"{plan.seed}/{index}")
    model, names = plan.model, prompts(plan.model)
    file_format = draw.choice(("png", "png", "jpeg", "webp"))
    fields: dict[str, Any] = {
        "exactness": draw.choice(("bitwise", "numeric")),
        "output_format": file_format,
        "priority": draw.choice(("interactive", "standard", "standard", "batch")),
    }
    if file_format != "png":
        fields["output_compression"] = draw.choice((50, 90))
    slo_ms = draw.choice((None, None, 2_000.0, 60_000.0))
    if slo_ms is not None and draw.random() < 0.2:
        fields["drop_if_late"] = True
    width_px, height_px = (_side_px(model, draw, side_px) for side_px in model.default_size_px)
    return TimedRequest(
        prompt=draw.choice(names),
        seed=draw.randrange(2**32),
        n=draw.choice((1, 1, 1, 2, 3)),
        steps=draw.randint(min(2, model.default_steps), model.default_steps),
        size=f"{width_px}x{height_px}",
        slo_ms=slo_ms,
        fields=fields,
        leave_after_s=draw.uniform(0.0, 2.0) if draw.random() < 0.1 else None,
    )


def _side_px(model: Model, draw: random.Random, default_px: int) -> int:
    return draw.choice(range(model.min_size_px, default_px + 1, model.size_multiple_px))


def is_bitwise(asked: TimedRequest) -> bool:
    """Whether the same bytes were asked for, whatever happens."""
    return bool(asked.fields.get("exactness") == "bitwise")


def patient(asked: TimedRequest) -> TimedRequest:
    """The same picture for a client that waits for it, however long."""
    fields = {name: value for name, value in asked.fields.items() if name != "drop_if_late"}
    return replace(asked, fields=fields, leave_after_s=None)


def ready_at_s(journal: Sequence[Event], worker: str, n_stages: int) -> float | None:
    """When the process that `worker` has now had run each of its stages once; None if it has not."""
    warm: dict[str, float] = {}
    for event in journal:
        if event.get("worker") != worker:
            continue
        if event["event"] == "worker":
            warm = {}
        elif event["event"] == "stage" and event["job"] is None:
            warm.setdefault(event["stage"], event["ended_at_s"])
    return max(warm.values()) if len(warm) == n_stages else None


class Killer:
    """Takes workers until cancelled. `kills` are those that it took, `n_stages` those of the model."""

    def __init__(self, plan: Plan, node: Node, n_stages: int, say: Callable[[str], None]) -> None:
        self.kills: list[Kill] = []
        self._plan = plan
        self._node = node
        self._n_stages = n_stages
        self._say = say
        self._draw = random.Random(plan.seed)
        self._workers = [*node.worker_pids()]

    def all_ready(self) -> bool:
        """Whether every worker has been killed as often as it came back, and can run every stage."""
        journal = self._node.read_journal()
        for worker in self._workers:
            at_s = ready_at_s(journal, worker, self._n_stages)
            killed_s = max((kill.at_s for kill in self.kills if kill.worker == worker), default=0.0)
            if at_s is None or at_s < killed_s:
                return False
        return True

    async def until_ready(self) -> None:
        """Raises `NodeFailed` if they are not ready in time."""

        async def is_so() -> bool:
            return self.all_ready()

        await self._node.wait_until(is_so, "all workers ready", timeout_s=_RECOVERY_S)

    async def run(self) -> None:
        while True:
            await self.until_ready()
            await asyncio.sleep(self._plan.kill_every_s * self._draw.uniform(0.75, 1.25))
            self._strike()

    def _strike(self) -> None:
        n_before = len(self.kills) + self._plan.seed
        number = (signal.SIGKILL, signal.SIGSTOP)[n_before % 2]
        worker = self._draw.choice(self._workers)
        pid = self._node.worker_pids()[worker]
        os.kill(pid, number)
        self.kills.append(Kill(worker=worker, how=number.name, pid=pid, at_s=time.monotonic()))
        self._say(f"{number.name} to {worker}")


async def run(plan: Plan, say: Callable[[str], None]) -> Chaos:
    """Both runs. Raises `NodeFailed`, `TimeoutError`; cancellation stops the gateway that runs."""
    say(f"starting the gateway with {plan.n_workers} workers")
    chaos = Chaos(plan, await _disturbed(plan, say))
    exact = [result for result in chaos.disturbed.results if result.ok and is_bitwise(result.request)]
    say(f"{len(chaos.disturbed.results)} requests, {len(chaos.disturbed.kills)} kills; now undisturbed")
    async with plan.node("calm") as node:
        answers = await closed_loop(
            node.base_url, (patient(result.request) for result in exact), concurrency=plan.concurrency
        )
    chaos.calm = {result.index: calm for result, calm in zip(exact, answers, strict=True)}
    return chaos


async def _disturbed(plan: Plan, say: Callable[[str], None]) -> Disturbed:
    node = plan.node("killed")
    await node.start()
    try:
        await node.wait_ready()
        killer = Killer(plan, node, _n_stages(node), say)
        await killer.until_ready()
        idle_bytes = await _store_bytes(node)
        began_s = time.monotonic()
        killing = asyncio.create_task(killer.run())
        try:
            async with asyncio.timeout(_LIMIT_S):
                results = await closed_loop(
                    node.base_url, _load(plan, killer, killing), concurrency=plan.concurrency
                )
        finally:
            killing.cancel()
            await asyncio.wait((killing,))
        took_s = time.monotonic() - began_s
        if not killing.cancelled():
            killing.result()
        await killer.until_ready()
        await _until_idle(node, idle_bytes)
        retries = {why: await node.metric("triptych_job_retries_total", reason=why) for why in _RETRIES}
        restarts = await node.metric("triptych_worker_restarts_total")
        counted = await node.metric("triptych_requests_total")
        left_bytes = await _store_bytes(node) - idle_bytes
    except BaseException as error:
        for problem in await node.stop():
            error.add_note(problem)
        raise
    problems = await node.stop()
    return Disturbed(
        results=results,
        kills=killer.kills,
        journal=node.read_journal(),
        retries=retries,
        restarts=restarts,
        counted=counted,
        left_bytes=left_bytes,
        problems=problems,
        took_s=took_s,
    )


def _load(plan: Plan, killer: Killer, killing: asyncio.Task[None]) -> Iterator[TimedRequest]:
    index = 0
    while (index < plan.n_requests or len(killer.kills) < plan.min_kills) and not killing.done():
        yield request(plan, index)
        index += 1


def _n_stages(node: Node) -> int:
    return max(len(event["stages"]) for event in node.read_journal() if event["event"] == "effect")


async def _store_bytes(node: Node) -> float:
    """Bytes in the handoff store, less the encode results that are kept for later requests."""
    return await node.metric("triptych_handoff_bytes") - await node.metric("triptych_encode_cache_bytes")


async def _until_idle(node: Node, idle_bytes: float) -> None:
    """Returns when no job is open; what a client left behind may take until its next step boundary."""

    async def is_idle() -> bool:
        n_open = await node.metric("triptych_jobs")
        return n_open == 0 and await _store_bytes(node) <= idle_bytes

    try:
        await node.wait_until(is_idle, "an idle node", timeout_s=30.0)
    except NodeFailed:
        # the checks tell what is left
        if await node.metric("triptych_jobs"):
            raise
