"""The HTTP application: routes, request ids, and every error in one shape."""

from __future__ import annotations

import logging
import time
import uuid

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.access import Scope
from gateway.errors import (
    ApiError,
    BadHttp,
    BodyTooLarge,
    InternalError,
    MethodNotAllowed,
    RouteNotFound,
)
from gateway.health import health, metrics, ready
from gateway.images import post_images
from gateway.keys import CREATED, ENGINE, REQUEST_ID
from gateway.loop import Engine
from gateway.models import get_model, list_models

log = logging.getLogger(__name__)

ROUTES: tuple[tuple[str, str, Handler, Scope], ...] = (
    ("POST", "/v1/images/generations", post_images, "client"),
    ("GET", "/v1/models", list_models, "client"),
    ("GET", "/v1/models/{id:.+}", get_model, "client"),
    ("GET", "/health", health, "public"),
    ("GET", "/ready", ready, "public"),
    ("GET", "/metrics", metrics, "metrics"),
)
"""Every route: method, path, handler, and who may call it."""


def make_app(engine: Engine, *, max_body_bytes: int) -> web.Application:
    """Serves `engine`. Run it with `handler_cancellation=True`, or leaving clients cancel nothing."""
    app = web.Application(client_max_size=max_body_bytes, middlewares=[_answered])
    app[ENGINE] = engine
    app[CREATED] = int(time.time())
    for method, path, handler, _ in ROUTES:
        app.router.add_route(method, path, handler)
        if method == "GET":
            app.router.add_route("HEAD", path, handler)
    return app


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id = f"req-{uuid.uuid4().hex[:20]}"
    REQUEST_ID.set(request_id)
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
    return web.json_response(
        refused.body(), status=refused.http_status, headers={**headers, **refused.headers()}
    )


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
