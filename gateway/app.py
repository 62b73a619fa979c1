"""The HTTP application: routes, request ids, and every error in one shape."""

from __future__ import annotations

import asyncio
import logging

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.access import Guard, Scope
from gateway.downloads import get_file
from gateway.errors import (
    ApiError,
    BadHttp,
    BodyTooLarge,
    BodyTooSlow,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
)
from gateway.files import FileStore
from gateway.fleet_view import get_fleet
from gateway.health import health, metrics, ready
from gateway.images import post_images
from gateway.keys import ENGINE, FILES, OPENAPI, REQUEST_ID
from gateway.loop import Engine
from gateway.loop_lag import lag_sampled
from gateway.models import get_model, list_models, load_model, unload_model
from gateway.openapi import document, get_openapi
from gateway.operations import canonical
from gateway.request_log import told
from gateway.slip import SLIP

log = logging.getLogger(__name__)

ROUTES: tuple[tuple[str, str, Handler, Scope], ...] = (
    ("POST", "/v1/images/generations", post_images, "client"),
    ("GET", "/v1/files/{name}", get_file, "public"),
    ("GET", "/v1/models", list_models, "client"),
    ("GET", "/v1/models/{id:.+}", get_model, "client"),
    ("POST", "/v1/models/{id:.+}", load_model, "admin"),
    ("DELETE", "/v1/models/{id:.+}", unload_model, "admin"),
    ("GET", "/v1/fleet", get_fleet, "admin"),
    ("GET", "/health", health, "public"),
    ("GET", "/ready", ready, "public"),
    ("GET", "/metrics", metrics, "metrics"),
    ("GET", "/openapi.json", get_openapi, "public"),
)
"""Every route: method, path, handler, and who may call it."""


_SCOPES: dict[tuple[str, str], Scope] = {
    (method, canonical(path)): scope for method, path, _, scope in ROUTES
}


def make_app(
    engine: Engine,
    *,
    files: FileStore,
    max_body_bytes: int,
    guard: Guard | None = None,
    body_timeout_s: float = 30.0,
    log_prompts: bool = False,
) -> web.Application:
    """Serves `engine` to whom `guard` admits; the default one asks for no key.

    Run it with `handler_cancellation=True`, or leaving clients cancel nothing.
    """
    guard = guard or Guard()
    app = web.Application(
        client_max_size=max_body_bytes,
        middlewares=[
            told(log_prompts=log_prompts),
            _answered,
            _admitted(guard),
            _with_body(body_timeout_s),
        ],
    )
    app[ENGINE] = engine
    app[FILES] = files
    app.cleanup_ctx.append(files.swept)
    app.cleanup_ctx.append(lag_sampled)
    app[OPENAPI] = msgspec.json.encode(document(_SCOPES, with_keys=guard.asks_for_keys))
    for method, path, handler, _ in ROUTES:
        app.router.add_route(method, path, handler)
        if method == "GET":
            app.router.add_route("HEAD", path, handler)
    return app


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id = REQUEST_ID.get()
    headers = {"X-Request-Id": request_id}
    try:
        response = await handler(request)
        response.headers.update(headers)
        return response
    except ApiError as error:
        refused = error
    except web.HTTPException as error:
        refused = _translated(error, request)
        if allow := error.headers.get("Allow"):
            headers["Allow"] = allow
    except Exception:
        log.exception("%s: a bug of ours", request_id)
        refused = InternalError("internal error, see the gateway's log")
    if slip := SLIP.get():
        slip.error = refused
    return web.json_response(
        refused.body(), status=refused.http_status, headers={**headers, **refused.headers()}
    )


def _admitted(guard: Guard) -> Middleware:
    @web.middleware
    async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
        with guard.admitted(request, _scope(request)) as key_name:
            if slip := SLIP.get():
                slip.key_name = key_name
            return await handler(request)

    return admitted


def _scope(request: web.Request) -> Scope:
    """Of its route; only who has a key is told which there are not."""
    resource = request.match_info.route.resource
    if resource is None:
        return "client"
    return _SCOPES["GET" if request.method == "HEAD" else request.method, resource.canonical]


def _with_body(timeout_s: float) -> Middleware:
    """The handler finds the body read, within the bounds on its size and on how long that may take."""

    @web.middleware
    async def with_body(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.can_read_body:
            try:
                async with asyncio.timeout(timeout_s):
                    await request.read()
            except TimeoutError as error:
                raise BodyTooSlow(f"the body was not there after {timeout_s:g} s") from error
            except web.RequestPayloadError as error:
                raise InvalidRequest("the body cannot be decoded", code="invalid_body") from error
        return await handler(request)

    return with_body


def _translated(error: web.HTTPException, request: web.Request) -> ApiError:
    """aiohttp's refusals in our shape."""
    match error.status:
        case 404:
            return RouteNotFound(f"there is no {request.path}")
        case 405:
            return MethodNotAllowed(f"{request.method} is not allowed on {request.path}")
        case 413:
            return BodyTooLarge(error.text or "the body is too large")
        case _:
            return BadHttp(error.text or error.reason, http_status=error.status)
