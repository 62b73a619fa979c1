"""A whole gateway without processes: the real engine, link, store and HTTP surface over scripted workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from gateway.access import Guard
from gateway.api_keys import KeyRing
from gateway.app import make_app
from gateway.config import GatewayConfig, WorkerSpec
from gateway.files import FileStore
from gateway.handoffs import Handoffs
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.recording import Recording
from pipelines.catalogue import Catalogue, Model
from tests.gateway.scripted_fleet import ScriptedEngine, ScriptedFleet
from tests.gateway.toy import CLIPS, NODE
from wire.handoff import HandoffStore
from wire.sockets import GatewaySocket

PATIENCE_S = 10.0

MODEL = Model(
    source="./nowhere",
    family="sd3",
    default_size_px=(128, 128),
    min_size_px=64,
    max_size_px=256,
    default_steps=4,
    max_steps=50,
    default_guidance=4.0,
    max_prompt_chars=100,
)

OTHER = "toy-other"
CATALOGUE = Catalogue({"toy": MODEL, OTHER: MODEL, "toy-third": MODEL, CLIPS: MODEL})


async def until(condition: Callable[[], Any], what: str = "condition") -> None:
    """Polls; fails after `PATIENCE_S`."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not come true"
        await asyncio.sleep(0.002)


class Bench:
    """One running gateway and what a test needs of its inside."""

    def __init__(
        self, engine: ScriptedEngine, fleet: ScriptedFleet, client: TestClient[Any, Any], store: HandoffStore
    ) -> None:
        self.engine = engine
        self.fleet = fleet
        self.client = client
        self.store = store

    async def post(self, **fields: Any) -> ClientResponse:
        return await self.client.post("/v1/images/generations", json={"prompt": "a hat", **fields})

    def posted(self, **fields: Any) -> asyncio.Task[ClientResponse]:
        return asyncio.create_task(self.post(**fields))

    @property
    def n_kept(self) -> int:
        """Files that stay when no request is open: the inputs of the warm-ups, and known encode results."""
        return 2 * len(self.engine.planner.models) + self.engine.encodes.statistics()["entries"]

    @property
    def n_files(self) -> int:
        return sum(1 for file in self.store._folder.iterdir() if not file.name.startswith("."))


Start = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a gateway; the checks at its end hold for every test."""
    async with contextlib.AsyncExitStack() as stack:
        started: list[Bench] = []

        async def begin(
            *fates: tuple[str, str],
            n_workers: int = 2,
            wait_ready: bool = True,
            name: str = "",
            **fields: Any,
        ) -> Bench:
            workers = tuple(
                WorkerSpec(worker_id=f"cpu-{i}", device="cpu", threads=1) for i in range(n_workers)
            )
            # with a cache of encode results a fate of the encode stage would not be met
            usual = {
                "models": ("toy",),
                "heartbeat_interval_s": 0.05,
                "encode_cache_bytes": 0,
                "profile": "off",
                "profiles": tmp_path / "profiles",
            }
            config = GatewayConfig(**{**usual, "workers": workers, **fields}).checked()
            endpoint = f"ipc://{tmp_path}/{name}gateway.sock"
            socket = stack.enter_context(GatewaySocket(endpoint))
            store = HandoffStore(
                tmp_path / f"{name}handoff", node=NODE, capacity_bytes=config.store_capacity_bytes
            )
            engine = ScriptedEngine(
                config,
                CATALOGUE,
                socket=socket,
                handoffs=Handoffs(store),
                journal=stack.enter_context(Journal(config.journal)),
                metrics=Metrics(),
                clock=time.monotonic,
                recording=stack.enter_context(Recording(config.record, max_bytes=config.record_bytes)),
            )
            fleet = ScriptedFleet(engine, [w.worker_id for w in workers], endpoint=endpoint, store=store)
            for stage, fate in fates:
                fleet.fates.add(stage, fate)
            engine.keeper = fleet
            files = stack.enter_context(
                FileStore(
                    config.files or tmp_path / f"{name}files",
                    capacity_bytes=config.files_bytes,
                    ttl_s=config.file_ttl_s,
                    public_url=config.public_url,
                )
            )
            app = make_app(
                engine,
                files=files,
                max_body_bytes=config.max_body_bytes,
                guard=Guard(KeyRing(config.api_keys) if config.api_keys else None),
                body_timeout_s=config.body_timeout_s,
                log_prompts=config.log_prompts,
            )
            server = TestServer(app)
            await server.start_server()
            client = await stack.enter_async_context(TestClient(server))
            for work in (engine.run(), fleet.run()):
                stack.push_async_callback(_ended, asyncio.create_task(work))
            bench = Bench(engine, fleet, client, store)
            started.append(bench)
            if wait_ready:
                await until(engine.ready.is_set, "ready")
            return bench

        yield begin
        for bench in started:
            bench.engine.desk.end_all()
            bench.engine.book.check()
            assert not bench.engine.book.open_requests


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
