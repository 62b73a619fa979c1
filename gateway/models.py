"""`GET /v1/models` and `GET /v1/models/{id}`, in OpenAI's shape."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from gateway.errors import ModelNotFound
from gateway.keys import CREATED, ENGINE


class ModelReply(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served. `created`: when, in seconds since 1970. `adapters`: those `lora` may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["triptych"] = "triptych"
    adapters: tuple[str, ...]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Every model that is served."""

    object: Literal["list"] = "list"
    data: tuple[ModelReply, ...]


def _model(request: web.Request) -> ModelReply:
    engine = request.app[ENGINE]
    return ModelReply(
        id=engine.name, created=request.app[CREATED], adapters=tuple(sorted(engine.model.adapters))
    )


def _json(reply: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


async def list_models(request: web.Request) -> web.Response:
    """The one model that is served."""
    return _json(ModelList(data=(_model(request),)))


async def get_model(request: web.Request) -> web.Response:
    """Raises `ModelNotFound`."""
    asked, served = request.match_info["id"], request.app[ENGINE].name
    if asked != served:
        raise ModelNotFound(f"the model {asked!r} is not served here; this is {served!r}", param="model")
    return _json(_model(request))
