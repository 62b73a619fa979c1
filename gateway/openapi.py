"""`GET /openapi.json`: OpenAPI 3.1, made from the types that validate and from the table of operations."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from gateway.access import Scope
from gateway.bodies import ErrorReply
from gateway.errors import (
    ApiError,
    BadHttp,
    BodyTooLarge,
    BodyTooSlow,
    Forbidden,
    InternalError,
    KeyBusy,
    TooManyConnections,
    Unauthenticated,
)
from gateway.keys import OPENAPI
from gateway.operations import JSON, OPERATIONS, Operation, Reply

_REF = "#/components/schemas/{name}"
_BEARER = "bearer"
_SHARED: tuple[type[ApiError], ...] = (BadHttp, Forbidden, InternalError, TooManyConnections)
_WITH_BODY: tuple[type[ApiError], ...] = (BodyTooSlow, BodyTooLarge)
_WITH_KEY: tuple[type[ApiError], ...] = (Unauthenticated,)
_COUNTED_BY_KEY: tuple[type[ApiError], ...] = (KeyBusy,)

_HEADERS = {
    "X-Request-Id": {"description": "Names the call in the log.", "schema": {"type": "string"}},
    "X-Should-Retry": {
        "description": "Whether the same call may succeed later.",
        "schema": {"enum": ["true", "false"]},
    },
    "Retry-After": {
        "description": "In how many seconds, where a retry may help.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_PATH_PART = {"type": "string", "minLength": 1}

Document = dict[str, Any]


async def get_openapi(request: web.Request) -> web.Response:
    """The document that was made when the server started."""
    return web.Response(body=request.app[OPENAPI], content_type=JSON)


def document(scopes: Mapping[tuple[str, str], Scope], *, with_keys: bool) -> Document:
    """Of all operations. `scopes` by method and path; without keys none is asked for anywhere."""
    kinds: list[Any] = [ErrorReply]
    for operation in OPERATIONS:
        kinds += [operation.body] if operation.body else []
        kinds += [reply.kind for reply in operation.replies if reply.kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Document] = defaultdict(dict)
    for operation in OPERATIONS:
        scope = scopes[operation.method, operation.path]
        asks = with_keys and scope != "public"
        paths[operation.path][operation.method.lower()] = _operation(operation, by_kind, asks_for_key=asks)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Triptych",
            "version": "1",
            "description": "Diffusion models, served stage by stage.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": {name: _tidy(schema) for name, schema in components.items()},
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}},
            "headers": _HEADERS,
        },
    }


def _operation(operation: Operation, by_kind: Mapping[Any, Document], *, asks_for_key: bool) -> Document:
    errors = [*operation.errors, *_SHARED]
    if operation.body is not None:
        errors += _WITH_BODY
    if asks_for_key:
        errors += _WITH_KEY
        errors += _COUNTED_BY_KEY if operation.method != "GET" else ()
    made: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": {
            **{str(reply.status): _reply(reply, by_kind) for reply in operation.replies},
            **_errors(errors),
        },
    }
    if operation.parameters:
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "description": what, "schema": _PATH_PART}
            for name, what in operation.parameters.items()
        ]
    if operation.body is not None:
        content = {JSON: {"schema": by_kind[operation.body]}}
        made["requestBody"] = {"required": operation.needs_body, "content": content}
    if asks_for_key:
        made["security"] = [{_BEARER: []}]
    return made


def _reply(reply: Reply, by_kind: Mapping[Any, Document]) -> Document:
    schema = {} if reply.kind is None else {"schema": by_kind[reply.kind]}
    return {
        "description": reply.what,
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}},
        "content": dict.fromkeys(reply.media, schema),
    }


def _errors(kinds: Iterable[type[ApiError]]) -> Document:
    by_status: dict[int, list[type[ApiError]]] = defaultdict(list)
    for kind in kinds:
        by_status[kind.status].append(kind)
    made = {}
    for status, alike in sorted(by_status.items()):
        names = ["X-Request-Id", "X-Should-Retry"]
        names += ["Retry-After"] if any(kind.may_retry for kind in alike) else []
        made[str(status)] = {
            "description": "\n".join(map(_told, alike)),
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
            "content": {JSON: {"schema": {"$ref": _REF.format(name=ErrorReply.__name__)}}},
        }
    return made


def _told(kind: type[ApiError]) -> str:
    """Its code, unless it has several, and what it is if its class says so itself."""
    code = f"`{kind.code}`" if "code" in vars(kind) else ""
    what = (vars(kind).get("__doc__") or "").partition("\n")[0]
    return f"- {': '.join(filter(None, (code, what)))}"


def _tidy(schema: Document) -> Document:
    """Docstrings are indented as they stand in their class."""
    if "description" in schema:
        return {**schema, "description": inspect.cleandoc(schema["description"])}
    return schema
