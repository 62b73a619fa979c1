"""The demo: one small load, three ways to place its stages on two workers.

First every worker runs every stage, then one worker encodes and decodes for the other, which denoises; the
pictures must be the same bytes. Then the gateway decides itself, with too little memory for all stages of the
large pictures to which the load shifts for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from bench.demo_checks import Check, check_placement_changed, check_requests, check_same_pictures
from bench.journal import Journal, PlacementChange, placement_changes, read_journal
from bench.load import Result, closed_loop, open_loop
from bench.mix import Shift, mixed_requests, shift_requests, shift_shapes
from bench.node import Node, NodeConfig, OnWait
from bench.progress import Show, phase
from bench.room import kept_measurements, memory_between
from pipelines.catalogue import Model
from planner.types import Shape

WINDOW_S, DWELL_S, MIN_SAMPLES = 1.5, 2.0, 6
_POLL_S = 0.1
_SHIFT_CONCURRENCY = 3


class RunningNode(Protocol):
    """What the demo needs of a gateway."""

    @property
    def base_url(self) -> str: ...

    @property
    def journal(self) -> Path: ...


StartNode = Callable[[NodeConfig, OnWait], AbstractAsyncContextManager[RunningNode]]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What happened in one phase. `start_s`: when the load began, on the journal's clock."""

    name: str
    title: str
    placement: str
    results: tuple[Result, ...]
    journal: Journal
    start_s: float
    end_s: float
    changes: tuple[PlacementChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Demo:
    """All phases and what was checked. `shapes`: the small and the large one of the last phase."""

    model: str
    workers: tuple[str, ...]
    phases: tuple[Phase, ...]
    shapes: tuple[Shape, Shape]
    worker_memory_bytes: int
    checks: tuple[Check, ...]
    took_s: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """`workers`: the gateway's flags for two workers, `worker_ids` what it will call them.

    `shift_limit_s`: how long the last phase waits for each of its two changes of places.
    """

    name: str
    model: Model
    workers: tuple[str, ...]
    worker_ids: tuple[str, str]
    out: Path
    flags: tuple[str, ...] = ()
    shift_limit_s: float = 60.0

    @property
    def profiles(self) -> Path:
        """Where the first gateway leaves what stages cost here."""
        return self.out / "profiles"


def start_node(config: NodeConfig, on_wait: OnWait) -> AbstractAsyncContextManager[RunningNode]:
    """A real one."""
    return Node(config, on_wait=on_wait)


async def run(config: DemoConfig, console: Console, *, start: StartNode = start_node) -> Demo:
    """All three phases, one gateway at a time. Raises `NodeFailed` and `CannotShift`.

    Cancellation stops the gateway that runs.
    """
    began_s = time.monotonic()
    colocated = await _mixed(
        config, console, start, "colocated", "1. Co-located: both workers run every stage", "colocated"
    )
    kinds = colocated.journal.stage_kinds
    first, second = config.worker_ids
    rest = "+".join(stage for stage, kind in kinds.items() if kind != "diffuse")
    loop = "+".join(stage for stage, kind in kinds.items() if kind == "diffuse")
    pinned = f"{first}={rest},{second}={loop}"
    title = f"2. Split: {first} encodes and decodes, {second} denoises"
    split = await _mixed(config, console, start, "split", title, pinned)
    shapes = shift_shapes(config.model)
    memory_bytes = memory_between(kept_measurements(config.profiles, config.name), kinds, *shapes)
    auto = await _shifting(config, console, start, shapes, memory_bytes)
    phases = (colocated, split, auto)
    checks = (
        check_requests([result for done in phases for result in done.results]),
        check_same_pictures(colocated.results, split.results),
        check_placement_changed(auto.changes, first_sent_s=auto.start_s, last_ended_s=auto.end_s),
    )
    return Demo(
        model=config.name,
        workers=config.worker_ids,
        phases=phases,
        shapes=shapes,
        worker_memory_bytes=memory_bytes,
        checks=checks,
        took_s=time.monotonic() - began_s,
    )


async def settled(journal: Path, *, limit_s: float = 30.0) -> None:
    """Returns when every worker has warmed all that it was told to load, or after `limit_s`.

    The gateway is ready as soon as each stage is warm somewhere; what the other workers still warm up would
    show as a slow start of the first requests.
    """
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        read = read_journal(journal)
        loads = {(e.worker, stage) for e in read.effects if e.effect == "load" for stage in e.stages}
        if loads <= {(span.worker, span.stage) for span in read.stages}:
            return
        await asyncio.sleep(_POLL_S)


async def _mixed(
    config: DemoConfig, console: Console, start: StartNode, name: str, title: str, placement: str
) -> Phase:
    requests = mixed_requests(config.model)
    with phase(console, title, len(requests)) as show:
        async with start(_node_config(config, name, placement), _waiting(show)) as node:
            await settled(node.journal)
            show.status("serving")
            start_s = time.monotonic()
            results = await open_loop(node.base_url, requests, on_done=show.done)
            end_s = time.monotonic()
            show.status("stopping the gateway")
        show.note(_summary(results, end_s - start_s))
    return Phase(
        name=name,
        title=title,
        placement=placement,
        results=tuple(results),
        journal=read_journal(node.journal),
        start_s=start_s,
        end_s=end_s,
    )


async def _shifting(
    config: DemoConfig, console: Console, start: StartNode, shapes: tuple[Shape, Shape], memory_bytes: int
) -> Phase:
    small, large = shapes
    title = (
        f"3. The gateway decides, with {memory_bytes / 2**20:.0f} MiB for a worker:"
        f" pictures of {small.width_px} px, of {large.width_px}, of {small.width_px} again"
    )
    flags = (
        *("--worker-memory-bytes", str(memory_bytes)),
        *("--mix-window-s", f"{WINDOW_S:g}"),
        *("--min-dwell-s", f"{DWELL_S:g}"),
        *("--min-samples", str(MIN_SAMPLES)),
    )
    with phase(console, title, None) as show:
        async with start(_node_config(config, "auto", "auto", flags), _waiting(show)) as node:
            await settled(node.journal)
            show.status("serving")
            start_s = time.monotonic()
            shift = Shift(
                node.journal,
                shift_requests(config.model, small),
                shift_requests(config.model, large),
                limit_s=config.shift_limit_s,
                on_change=show.note,
            )

            def on_done(result: Result) -> None:
                show.done(result)
                shift.done(result)

            results = await closed_loop(node.base_url, shift, concurrency=_SHIFT_CONCURRENCY, on_done=on_done)
            end_s = time.monotonic()
            show.status("stopping the gateway")
        show.note(_summary(results, end_s - start_s))
    journal = read_journal(node.journal)
    return Phase(
        name="auto",
        title=title,
        placement="auto",
        results=tuple(results),
        journal=journal,
        start_s=start_s,
        end_s=end_s,
        changes=tuple(placement_changes(journal.effects, since_s=start_s)),
    )


def _node_config(config: DemoConfig, name: str, placement: str, flags: tuple[str, ...] = ()) -> NodeConfig:
    return NodeConfig(
        name=f"gateway-{name}",
        folder=config.out,
        model=config.name,
        workers=config.workers,
        placement=placement,
        flags=("--profiles", str(config.profiles), *config.flags, *flags),
    )


def _summary(results: list[Result], seconds: float) -> str:
    n_pictures = sum(len(result.pictures) for result in results)
    return f"{len(results)} requests, {n_pictures} pictures in {seconds:.1f} s"


def _waiting(show: Show) -> OnWait:
    show.status("starting the gateway")

    def on_wait(reason: str) -> None:
        if show.is_live:
            show.status(f"starting the gateway: {reason}")

    return on_wait
