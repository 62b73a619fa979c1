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
    DeadlineMissed,
    FilesFull,
    FileUnknown,
    HandoffsLost,
    InputRefused,
    InvalidRequest,
    ModelNotFound,
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
from gateway.health import Alive, Ready
from gateway.models import ModelList, ModelReply

JSON = "application/json"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A success. `kind`: the type of its JSON, None for a file of one of the types in `media`."""

    what: str
    status: int = 200
    kind: Any = None
    media: tuple[str, ...] = (JSON,)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. `parameters`: those in the path, with what they are.

    `errors`: its own; what any call can meet is not repeated. `body`: the type of the request's JSON.
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
            NotReady,
            ShuttingDown,
            FilesFull,
            DeadlineMissed,
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
