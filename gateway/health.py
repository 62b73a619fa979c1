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
    """`model` can be served whole."""

    status: Literal["ready"] = "ready"
    model: str


async def health(request: web.Request) -> web.Response:
    """Alive, whatever the workers do."""
    return web.Response(body=msgspec.json.encode(Alive()), content_type="application/json")


async def ready(request: web.Request) -> web.Response:
    """Raises `NotReady` with the reason while the model cannot be served whole."""
    engine = request.app[ENGINE]
    if reason := engine.not_ready_reason():
        raise NotReady(reason)
    return web.Response(body=msgspec.json.encode(Ready(model=engine.name)), content_type="application/json")


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    engine = request.app[ENGINE]
    text = engine.metrics.render(await engine.handoffs.used_bytes())
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
