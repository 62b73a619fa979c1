"""Loads of a model's stages from disk and from the node's host copy, and what workers hold of memory.

Both ways load on one worker's device loop each, in turns, and each load is followed by a picture, which must
be the same bytes every time. On a CPU pictures are in processor time, which others disturb less. Memory is
that of real worker processes that have run every stage.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.device_driver import DeviceDriver
from bench.node import Node, NodeConfig
from bench.pss import mapped_bytes, pss_bytes
from bench.stats import percentiles
from pipelines.catalogue import Model, to_entry
from wire.generation import Generation
from wire.to_gateway import StagesLoaded, TaskDone
from wire.to_worker import EvictStages, LoadStages, RunTask

_MODEL = "measured"


class Refused(Exception):
    """What was measured is not what it should be: the text says what."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`generation`: the picture behind each load. Every stage is loaded `n_loads` times each way."""

    model: Model
    stages: tuple[str, ...]
    generation: Generation
    n_loads: int


@dataclass
class Way:
    """How weights come: `origin` is what the worker must say of each part. Seconds, by load.

    Loads in wall time; pictures in processor time on a CPU, else in wall time.
    """

    name: str
    origin: str
    load_s: list[float] = field(default_factory=list)
    picture_s: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "n": len(self.load_s),
            "load_ms": percentiles([1000 * value for value in self.load_s], 20, 50, 80),
            "picture_ms": percentiles([1000 * value for value in self.picture_s], 20, 50, 80),
            "raw_load_s": [round(value, 5) for value in self.load_s],
            "raw_picture_s": [round(value, 5) for value in self.picture_s],
        }


def loads(plan: Plan, from_disk: DeviceDriver, from_host: DeviceDriver) -> dict[str, Any]:
    """`from_host`: a driver with host copies. Raises `Refused`, `DeviceFailed`."""
    disk, host = Way("from disk", "disk"), Way("from the host copy", "host")
    pictures: set[bytes] = set()
    first = _load(from_host, plan)
    pictures.add(_picture(from_host, plan, Way("", ""), "first"))
    _load(from_disk, plan)
    pictures.add(_picture(from_disk, plan, Way("", ""), "first"))
    for turn in range(plan.n_loads):
        for driver, way in ((from_disk, disk), (from_host, host)):
            driver.loop.submit(EvictStages(model=_MODEL, stages=plan.stages))
            loaded = _load(driver, plan)
            if set(loaded.origins.values()) != {way.origin}:
                raise Refused(f"a load {way.name} came from {loaded.origins}")
            way.load_s.append(loaded.load_s)
            pictures.add(_picture(driver, plan, way, f"{way.origin}-{turn}"))
    if len(pictures) != 1:
        raise Refused(f"{len(pictures)} different pictures of one request")
    return {
        "n_pictures_compared": 2 * plan.n_loads + 2,
        "first_load_ms": 1000 * first.load_s,
        "weights_bytes": first.resident_bytes,
        "host_bytes": first.host_bytes,
        "ways": [disk.told(), host.told()],
    }


def _load(driver: DeviceDriver, plan: Plan) -> StagesLoaded:
    driver.loop.submit(LoadStages(model=_MODEL, entry=to_entry(plan.model), stages=plan.stages))
    return driver.until(StagesLoaded)


def _picture(driver: DeviceDriver, plan: Plan, way: Way, task_id: str) -> bytes:
    """The second picture's time: the first one touches pages that are new."""
    clock = time.process_time if driver.device == "cpu" else time.monotonic
    data = b""
    for number in range(2):
        started_s = clock()
        driver.loop.submit(
            RunTask(
                task_id=f"{task_id}-{number}",
                job_id="bench",
                model=_MODEL,
                stages=plan.stages,
                generation=plan.generation,
            )
        )
        output = driver.until(TaskDone).output
        ended_s = clock()
        data = driver.store.get(output)
        driver.store.free(output)
    way.picture_s.append(ended_s - started_s)
    return data


async def memory(
    name: str, folder: Path, model: str, n_workers: int, flags: tuple[str, ...]
) -> dict[str, Any]:
    """Of real workers, all stages on each, as soon as all hold them. Raises `NodeFailed`."""
    config = NodeConfig(
        name=name,
        folder=folder,
        model=model,
        workers=("--cpu", str(n_workers), "--threads", "1"),
        placement="colocated",
        flags=("--profile", "off", *flags),
    )
    async with Node(config) as node:

        async def all_warm() -> bool:
            """All stages on all workers, and nothing to do."""
            async with aiohttp.ClientSession() as session, session.get(f"{node.base_url}/v1/fleet") as reply:
                workers = (await reply.json())["workers"]
            return all(w["resident"] and not w["loading"] and w["task"] is None for w in workers)

        await node.wait_until(all_warm, "all workers to hold every stage")
        pids = node.worker_pids().values()
        mapped = [mapped_bytes(pid, "/weights/component-") for pid in pids]
        return {
            "name": name,
            "n_workers": n_workers,
            "pss_bytes": [pss_bytes(pid) for pid in pids],
            "mapped_rss_bytes": [sums["Rss"] for sums in mapped],
            "mapped_pss_bytes": [sums["Pss"] for sums in mapped],
        }
