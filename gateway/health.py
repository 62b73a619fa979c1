"""`GET /health`, `/ready` and `/metrics`: for balancers, probes and Prometheus."""

from __future__ import annotations

from aiohttp import web

from gateway.errors import NotReady
from gateway.keys import ENGINE


async def health(request: web.Request) -> web.Response:
    """Alive, whatever the workers do."""
    return web.json_response({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Raises `NotReady` with the reason while the model cannot be served whole."""
    engine = request.app[ENGINE]
    if reason := engine.not_ready_reason():
        raise NotReady(reason)
    return web.json_response({"status": "ready", "model": engine.name})


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    engine = request.app[ENGINE]
    text = engine.metrics.render(await engine.handoffs.used_bytes())
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
