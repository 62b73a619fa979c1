"""`/v1/models`: what is served, in OpenAI's shape and with its status; what is to be loaded or unloaded."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from gateway.errors import InvalidRequest, ModelFailed, ModelNotFound, WrongContentType
from gateway.keys import ENGINE
from gateway.served import ServedModel, Status


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a load, which may be left out. `wait`: answer once the model is ready, or has failed."""

    wait: bool = False


class ModelReply(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `created`: seconds since 1970 when it was asked for.

    `reason`: why it cannot be served whole right now, null if it can. `adapters`: names for `lora`.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["triptych"] = "triptych"
    status: Status
    reason: str | None
    adapters: tuple[str, ...]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Every model that is served, on its way in or out, or failed."""

    object: Literal["list"] = "list"
    data: tuple[ModelReply, ...]


async def list_models(request: web.Request) -> web.Response:
    """All of them, in the order in which they came."""
    listed = ModelList(data=tuple(_model(served) for served in request.app[ENGINE].roster))
    return _reply(listed, 200)


async def get_model(request: web.Request) -> web.Response:
    """Raises `ModelNotFound`."""
    return _reply(_model(request.app[ENGINE].roster.get(request.match_info["id"])), 200)


async def load_model(request: web.Request) -> web.Response:
    """202 for a model that begins to load, 200 for one that did before or is served.

    Raises `ModelNotFound`, `ModelLeaving`; with `wait` also `ModelFailed`. A client that leaves ends its
    waiting, not the load.
    """
    asked = _load_request(request, await request.read())
    engine = request.app[ENGINE]
    served, is_new = engine.roster.load(request.match_info["id"])
    if not asked.wait:
        return _reply(_model(served), 202 if is_new else 200)
    while served.status is Status.LOADING and engine.desk.refusing is None:
        await served.settled.wait()
    match served.status:
        case Status.READY:
            return _reply(_model(served), 200)
        case Status.FAILED:
            raise ModelFailed(f"{served.name} cannot be served: {served.reason}")
        case Status.UNLOADING:
            raise ModelNotFound(f"the model {served.name!r} was unloaded meanwhile", param="model")
    assert engine.desk.refusing is not None
    raise engine.desk.refusing


async def unload_model(request: web.Request) -> web.Response:
    """202: it takes no more requests, and is gone once the open ones have ended. Raises `ModelNotFound`."""
    return _reply(_model(request.app[ENGINE].roster.unload(request.match_info["id"])), 202)


def _load_request(request: web.Request, body: bytes) -> LoadRequest:
    if not body:
        return LoadRequest()
    if request.content_type != "application/json":
        raise WrongContentType(f"the body must be application/json, not {request.content_type}")
    try:
        return msgspec.json.decode(body, type=LoadRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}", code="invalid_json") from None


def _model(served: ServedModel) -> ModelReply:
    return ModelReply(
        id=served.name,
        created=served.created_at,
        status=served.status,
        reason=served.not_ready_reason(),
        adapters=tuple(sorted(served.model.adapters)),
    )


def _reply(value: ModelReply | ModelList, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
