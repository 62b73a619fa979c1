"""What can be asked of this server, as one literal table: what `/openapi.json` is made from.

Who may call what is said by `app.ROUTES`; a test holds both to the same paths and methods.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.bodies import ImagesReply, ImagesRequest
from gateway.errors import (
    ApiError,
    DeadlineInfeasible,
    DeadlineMissed,
    FilesFull,
    FileUnknown,
    HandoffsLost,
    InputRefused,
    InvalidRequest,
    ModelFailed,
    ModelLeaving,
    ModelNotFound,
    ModelUnloaded,
    NotReady,
    OutOfMemory,
    PoisonRequest,
    QueueFull,
    ShuttingDown,
    StageFailed,
    StoreExhausted,
    WrongContentType,
)
from gateway.files import CONTENT_TYPE
from gateway.fleet_report import FleetReport
from gateway.health import Alive, Ready
from gateway.models import LoadRequest, ModelList, ModelReply

JSON = "application/json"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A success. `kind`: the type of its JSON, None for a file of one of the types in `media`."""

    what: str
    status: int = 200
    kind: Any = None
    media: tuple[str, ...] = (JSON,)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. `parameters`: those in the path, with what they are.

    `errors`: its own; what any call can meet is not repeated. `body`: the type of the request's JSON,
    which may be left out unless `needs_body`.
    """

    name: str
    method: str
    path: str
    tag: str
    summary: str
    replies: tuple[Reply, ...]
    errors: tuple[type[ApiError], ...] = ()
    parameters: dict[str, str] = {}
    body: type[msgspec.Struct] | None = None
    needs_body: bool = True


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="generateImages",
        method="POST",
        path="/v1/images/generations",
        tag="images",
        summary="Make pictures of a text.",
        body=ImagesRequest,
        replies=(Reply(what="The pictures.", kind=ImagesReply),),
        errors=(
            InvalidRequest,
            InputRefused,
            ModelNotFound,
            WrongContentType,
            QueueFull,
            DeadlineInfeasible,
            NotReady,
            ShuttingDown,
            FilesFull,
            DeadlineMissed,
            ModelUnloaded,
            ModelFailed,
            StageFailed,
            OutOfMemory,
            PoisonRequest,
            HandoffsLost,
            StoreExhausted,
        ),
    ),
    Operation(
        name="getFile",
        method="GET",
        path="/v1/files/{name}",
        tag="images",
        summary="A picture that was asked for as a URL.",
        parameters={"name": "The end of the URL."},
        replies=(
            Reply(what="The file.", media=tuple(CONTENT_TYPE.values())),
            Reply(status=206, what="The range of it that was asked for.", media=tuple(CONTENT_TYPE.values())),
        ),
        errors=(FileUnknown,),
    ),
    Operation(
        name="listModels",
        method="GET",
        path="/v1/models",
        tag="models",
        summary="The models that are served.",
        replies=(Reply(what="The models.", kind=ModelList),),
    ),
    Operation(
        name="getModel",
        method="GET",
        path="/v1/models/{id}",
        tag="models",
        summary="One model.",
        parameters={"id": "Its name."},
        replies=(Reply(what="The model.", kind=ModelReply),),
        errors=(ModelNotFound,),
    ),
    Operation(
        name="loadModel",
        method="POST",
        path="/v1/models/{id}",
        tag="models",
        summary="Serve a model of the catalogue, again if it failed.",
        parameters={"id": "Its name."},
        body=LoadRequest,
        needs_body=False,
        replies=(
            Reply(what="It is served or loading already, or was waited for.", kind=ModelReply),
            Reply(status=202, what="It begins to load.", kind=ModelReply),
        ),
        errors=(
            InvalidRequest,
            WrongContentType,
            ModelNotFound,
            ModelLeaving,
            ModelFailed,
            ShuttingDown,
        ),
    ),
    Operation(
        name="unloadModel",
        method="DELETE",
        path="/v1/models/{id}",
        tag="models",
        summary="Serve a model no more.",
        parameters={"id": "Its name."},
        replies=(Reply(status=202, what="It is gone once its open requests have ended.", kind=ModelReply),),
        errors=(ModelNotFound, ShuttingDown),
    ),
    Operation(
        name="getFleet",
        method="GET",
        path="/v1/fleet",
        tag="server",
        summary="Workers, what they run, what waits, and what was decided last.",
        replies=(Reply(what="All of it at one moment.", kind=FleetReport),),
    ),
    Operation(
        name="getHealth",
        method="GET",
        path="/health",
        tag="server",
        summary="Whether the server lives.",
        replies=(Reply(what="It does, whatever its workers do.", kind=Alive),),
    ),
    Operation(
        name="getReady",
        method="GET",
        path="/ready",
        tag="server",
        summary="Whether it can make pictures.",
        replies=(Reply(what="It can.", kind=Ready),),
        errors=(NotReady,),
    ),
    Operation(
        name="getMetrics",
        method="GET",
        path="/metrics",
        tag="server",
        summary="Figures for Prometheus.",
        replies=(Reply(what="Prometheus' text.", media=("text/plain",)),),
    ),
    Operation(
        name="getOpenApi",
        method="GET",
        path="/openapi.json",
        tag="server",
        summary="This description.",
        replies=(Reply(what="OpenAPI 3.1.", kind=dict[str, Any]),),
    ),
)


def canonical(path: str) -> str:
    """A route's path without the patterns of its parameters."""
    return re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", path)
