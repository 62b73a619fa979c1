"""Wake-ups on the event loop that is used in earnest: uvloop's timers differ from asyncio's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import uvloop

from gateway.config import GatewayConfig, cpu_workers
from gateway.handoffs import Handoffs
from gateway.journal import Journal
from gateway.loop import Engine
from gateway.metrics import Metrics
from tests.gateway.conftest import CATALOGUE, PATIENCE_S
from wire.handoff import HandoffStore


def test_wake_ups_that_are_due_already_do_not_break_later_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        engine = Engine(
            GatewayConfig(models=("toy",), workers=cpu_workers(1, cores=1)),
            CATALOGUE,
            socket=cast(Any, None),
            handoffs=Handoffs(HandoffStore(tmp_path / "handoff", node="here", capacity_bytes=1)),
            journal=Journal(None),
            metrics=Metrics(),
            clock=time.monotonic,
        )
        now_s = engine.now_s()
        for at_s in (now_s - 1.0, now_s, now_s + 1e-4, now_s + 60.0, now_s + 1e-3):
            engine._alarm.at(at_s)
        async with asyncio.timeout(PATIENCE_S):
            await engine._dirty.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
