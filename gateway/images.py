"""`POST /v1/images/generations`."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time

from aiohttp import web

from gateway.errors import InvalidRequest, WrongContentType
from gateway.jobs import Request
from gateway.keys import ENGINE, REQUEST_ID
from gateway.schema import parse_images_request, resolve
from gateway.slip import noted
from gateway.terms import Terms
from gateway.timings import server_timing

_THREAD_FROM_BYTES = 64 * 1024
_draw = random.SystemRandom()


async def post_images(request: web.Request) -> web.Response:
    """Raises `ApiError`. When the client leaves, this is cancelled and with it the jobs."""
    engine = request.app[ENGINE]
    if request.content_type != "application/json":
        raise WrongContentType(f"the body must be application/json, not {request.content_type}")
    try:
        body = await request.read()
    except web.RequestPayloadError as error:
        raise InvalidRequest("the body cannot be decoded", code="invalid_body") from error
    asked = parse_images_request(body)
    noted(asked.model, asked.prompt)
    generations, (width_px, height_px) = resolve(
        asked, engine.name, engine.model, draw=_draw, tiled=engine.decodes_in_tiles
    )
    terms = Terms(
        slo_ms=asked.slo_ms,
        priority=asked.priority or "standard",
        drop_if_late=bool(asked.drop_if_late),
    )
    done = await engine.desk.generate(generations, terms, request_id=REQUEST_ID.get())
    n_bytes = sum(len(job.picture or b"") for job in done.jobs)
    size = f"{width_px}x{height_px}"
    if n_bytes < _THREAD_FROM_BYTES:
        reply = _rendered(done, size)
    else:
        reply = await asyncio.to_thread(_rendered, done, size)
    return web.Response(
        body=reply,
        content_type="application/json",
        headers={"Server-Timing": server_timing(done.slowest)},
    )


def _rendered(done: Request, size: str) -> bytes:
    data = [
        {"b64_json": base64.b64encode(job.picture or b"").decode("ascii"), "seed": job.generation.seed}
        for job in done.jobs
    ]
    reply = {
        "created": int(time.time()),
        "data": data,
        "size": size,
        "output_format": done.jobs[0].generation.file_format,
        "background": "opaque",
        "exactness": done.exactness,
    }
    return json.dumps(reply, separators=(",", ":")).encode()
