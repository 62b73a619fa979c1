"""`GET /v1/models` and `GET /v1/models/{id}`, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.errors import ModelNotFound
from gateway.keys import CREATED, ENGINE


def _model(request: web.Request) -> dict[str, Any]:
    engine = request.app[ENGINE]
    return {
        "id": engine.name,
        "object": "model",
        "created": request.app[CREATED],
        "owned_by": "triptych",
        "adapters": sorted(engine.model.adapters),
    }


async def list_models(request: web.Request) -> web.Response:
    """The one model that is served."""
    return web.json_response({"object": "list", "data": [_model(request)]})


async def get_model(request: web.Request) -> web.Response:
    """Raises `ModelNotFound`."""
    asked, served = request.match_info["id"], request.app[ENGINE].name
    if asked != served:
        raise ModelNotFound(f"the model {asked!r} is not served here; this is {served!r}", param="model")
    return web.json_response(_model(request))
