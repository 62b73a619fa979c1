"""`POST /v1/images/generations`."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from gateway.arrivals import decodes_in_tiles
from gateway.bodies import ImageItem, ImagesReply
from gateway.errors import InvalidRequest, WrongContentType
from gateway.files import FileStore
from gateway.job import Job
from gateway.jobs import Request
from gateway.keys import ENGINE, FILES, REQUEST_ID
from gateway.schema import least_steps, parse_images_request, resolve
from gateway.slip import noted
from gateway.terms import Terms
from gateway.timings import server_timing
from wire.generation import Exactness

_THREAD_FROM_BYTES = 64 * 1024
_draw = random.SystemRandom()

# what "auto" comes to is told, as it is of the size
_QUALITY: dict[str, Literal["low", "medium", "high"]] = {
    "auto": "medium",
    "low": "low",
    "medium": "medium",
    "high": "high",
}


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
    noted(asked.model, asked.prompt, asked.safety_identifier or asked.user)
    served = engine.roster.find(asked.model)
    tiled = functools.partial(decodes_in_tiles, engine.config, served.model)
    generations, (width_px, height_px) = resolve(asked, served.model, draw=_draw, tiled=tiled)
    terms = Terms(
        slo_ms=asked.slo_ms,
        priority=asked.priority or "standard",
        drop_if_late=bool(asked.drop_if_late),
        least_steps=least_steps(asked, served.model, generations[0].num_inference_steps),
    )
    call = functools.partial(engine.desk.generate, served, generations, terms, request_id=REQUEST_ID.get())
    if asked.response_format == "url":
        files = request.app[FILES]
        base = files.public_url or f"{request.scheme}://{request.host}"
        with files.room_for(generations):
            done = await call()
            data = await asyncio.to_thread(_as_urls, done, files, base.rstrip("/"))
    else:
        done = await call()
        data = _as_files(done)
    reply = ImagesReply(
        created=int(time.time()),
        data=data,
        size=f"{width_px}x{height_px}",
        quality=UNSET
        if asked.num_inference_steps is not None or done.exactness is Exactness.APPROXIMATE
        else _QUALITY[asked.quality or "auto"],
        output_format=done.jobs[0].generation.file_format,
        exactness=done.exactness,
    )
    if sum(len(job.picture or b"") for job in done.jobs) < _THREAD_FROM_BYTES:
        rendered = msgspec.json.encode(reply)
    else:
        rendered = await asyncio.to_thread(msgspec.json.encode, reply)
    return web.Response(
        body=rendered,
        content_type="application/json",
        headers={"Server-Timing": server_timing(done.slowest, reply_s=engine.now_s() - done.ended_s)},
    )


def _as_files(done: Request) -> tuple[ImageItem, ...]:
    return tuple(
        ImageItem(seed=job.generation.seed, num_inference_steps=_steps(job), b64_json=job.picture or b"")
        for job in done.jobs
    )


def _steps(job: Job) -> int | UnsetType:
    """Told where it is not what was asked for."""
    return job.steps if job.exactness is Exactness.APPROXIMATE else UNSET


def _as_urls(done: Request, files: FileStore, base: str) -> tuple[ImageItem, ...]:
    """Blocks. Raises `FilesFull`; what was stored before stays until it expires."""
    items = []
    for job in done.jobs:
        stored = files.put(job.picture or b"", job.generation.file_format)
        url = f"{base}/v1/files/{stored.name}"
        items.append(
            ImageItem(
                seed=job.generation.seed,
                num_inference_steps=_steps(job),
                url=url,
                expires_at=stored.expires_at,
            )
        )
    return tuple(items)
