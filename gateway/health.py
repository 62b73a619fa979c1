"""`GET /health`, `/ready` and `/metrics`: for balancers, probes and Prometheus."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from gateway.errors import NotReady
from gateway.keys import ENGINE


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """`models` can be served whole, among them those named at start and not unloaded."""

    status: Literal["ready"] = "ready"
    models: tuple[str, ...]


async def health(request: web.Request) -> web.Response:
    """Alive, whatever the workers do."""
    return web.Response(body=msgspec.json.encode(Alive()), content_type="application/json")


async def ready(request: web.Request) -> web.Response:
    """Raises `NotReady` with the reason while a model named at start, if not unloaded, cannot be served."""
    engine = request.app[ENGINE]
    if reason := engine.not_ready_reason():
        raise NotReady(reason)
    whole = tuple(served.name for served in engine.roster if served.not_ready_reason() is None)
    return web.Response(body=msgspec.json.encode(Ready(models=whole)), content_type="application/json")


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    engine = request.app[ENGINE]
    text = engine.metrics.render(await engine.handoffs.used_bytes())
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
