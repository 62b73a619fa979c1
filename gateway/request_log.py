"""One line in the log for every request for pictures that ends, answered or refused; other routes at debug.

It says who asked for what, where its time went, which workers ran it and how it ended. Prompts are left out
unless the configuration asks for them, and then only their beginning is shown.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.errors import ApiError
from gateway.jobs import Outcome, Request
from gateway.keys import ENGINE, REQUEST_ID
from gateway.slip import SLIP, Slip
from gateway.timings import times_s

log = logging.getLogger("gateway.requests")
access = logging.getLogger("gateway.access")

PICTURES = frozenset({"/v1/images/generations"})
"""Routes whose requests get a line at info."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_MAX_CHARS = 128
_MAX_PROMPT_CHARS = 200
_LEFT = 499


def told(*, log_prompts: bool) -> Middleware:
    """The outermost middleware: gives the request its id and tells of its end, however it ended."""

    @web.middleware
    async def tell(request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = time.monotonic()
        slip = Slip(f"req-{uuid.uuid4().hex[:20]}", client_request_id=_client_request_id(request))
        REQUEST_ID.set(slip.request_id)
        SLIP.set(slip)
        status = _LEFT
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            _told(request, slip, status, time.monotonic() - began_s, log_prompts)

    return tell


def _told(request: web.Request, slip: Slip, status: int, total_s: float, log_prompts: bool) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "other"
    method = request.method if request.method in _METHODS else "other"
    metrics = request.app[ENGINE].metrics
    metrics.http_requests.labels(route, method, str(status)).inc()
    if route not in PICTURES:
        fields = {"method": method, "route": route, "status": status, "key": slip.key_name}
        access.debug("%s", slip.request_id, extra={"fields": _known(fields)})
        return
    if slip.request is None:
        code = "client_left" if status == _LEFT else _code(slip.error)
        outcome = Outcome.CANCELLED if status == _LEFT else Outcome.REJECTED
        metrics.requests.labels("", str(outcome), code or "").inc()
    log.info("%s", slip.request_id, extra={"fields": fields_of(slip, status, total_s, log_prompts)})


def fields_of(slip: Slip, status: int, total_s: float, log_prompts: bool) -> dict[str, Any]:
    """What the line says, without what is not known. Durations in seconds, `slack_s` to the deadline."""
    fields: dict[str, Any] = {
        "status": status,
        "outcome": Outcome.CANCELLED if status == _LEFT else Outcome.REJECTED,
        "code": "client_left" if status == _LEFT else _code(slip.error),
        "param": slip.error.param if slip.error else None,
        "total_s": round(total_s, 6),
        "key": slip.key_name,
        "client_request_id": slip.client_request_id,
        "model": _cut(slip.model, _MAX_CHARS),
        "user": _cut(slip.user, _MAX_CHARS),
    }
    if slip.request is not None:
        fields |= _fields_of_request(slip, slip.request)
    if log_prompts:
        fields["prompt"] = _cut(slip.prompt, _MAX_PROMPT_CHARS)
    return _known(fields)


def _fields_of_request(slip: Slip, request: Request) -> dict[str, Any]:
    job = request.jobs[0]
    done = request.outcome is Outcome.DONE
    return {
        "model": job.model,
        "n": len(request.jobs),
        "size": f"{job.generation.width_px}x{job.generation.height_px}",
        "steps": job.generation.num_inference_steps,
        "priority": job.priority,
        "outcome": request.outcome,
        "code": _code(request.error or slip.error),
        "times_s": times_s(request.slowest),
        "workers": slip.workers,
        "retries": dict(slip.retries) or None,
        "slack_s": round(request.deadline_s - request.ended_s, 6),
        "exactness": request.exactness if done else None,
    }


def _code(error: ApiError | None) -> str | None:
    return None if error is None else error.code


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _cut(text: str | None, max_chars: int) -> str | None:
    return text if text is None or len(text) <= max_chars else text[:max_chars] + "..."


def _client_request_id(request: web.Request) -> str | None:
    """The client's or its proxy's own id, for the log only: ours names jobs and files and must be unique."""
    text = request.headers.get("X-Client-Request-Id") or request.headers.get("X-Request-Id")
    if not text:
        return None
    shown = "".join(c if " " <= c <= "~" else "?" for c in text[:_MAX_CHARS])
    return _cut(shown if len(text) <= _MAX_CHARS else shown + "...", _MAX_CHARS + 3)
