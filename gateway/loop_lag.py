"""How late the event loop comes to what is due: what every request and every message waits for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from gateway.keys import ENGINE

INTERVAL_S = 0.25


async def sample_lag(observe: Callable[[float], None], *, interval_s: float = INTERVAL_S) -> None:
    """Until cancelled: sleeps, and tells by how many seconds it woke up late."""
    while True:
        # not the loop's own clock, which may stand still during one pass
        due_s = time.monotonic() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, time.monotonic() - due_s))


async def lag_sampled(app: web.Application) -> AsyncIterator[None]:
    """A context of the application's life in which the lag goes to its metrics."""
    sampling = asyncio.create_task(sample_lag(app[ENGINE].metrics.loop_lag_seconds.observe))
    yield
    sampling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampling
