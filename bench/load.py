"""A small load generator for the images API: timed requests in, one result for each out.

Open loop sends at given times whatever the server does; closed loop keeps a number of requests under way.
Latency counts from when a request was due, so a client that falls behind does not flatter the server. It
never raises for what a server answers or fails to answer: that is a result.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]

_COMMA_OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')
_MAX_ERROR_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class TimedRequest:
    """One call of the images API. `at_s` from the start of the run; None leaves a field to the server.

    `fields` are further ones of the body. After `leave_after_s` the client closes its connection.
    """

    prompt: str
    seed: int
    steps: int | None = None
    n: int = 1
    size: str | None = None
    guidance: float | None = None
    slo_ms: float | None = None
    at_s: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    leave_after_s: float | None = None

    def body(self) -> dict[str, Any]:
        """What is sent."""
        fields = {
            "prompt": self.prompt,
            "seed": self.seed,
            "n": self.n,
            "size": self.size,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "slo_ms": self.slo_ms,
        }
        return {name: value for name, value in fields.items() if value is not None} | dict(self.fields)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of `request`, the `index`-th of its run.

    `due_s` and `sent_s` are on the monotonic clock, `latency_s` is from `due_s` to the last byte of the
    reply. `status` is None if there was no whole HTTP reply; `error` is None only if all pictures came.
    `code` is the server's, of an error; `left`: the client did, before there was a reply. `timing_ms` are the
    parts of `Server-Timing`, `exactness` what the reply says that was kept.
    """

    index: int
    request: TimedRequest
    due_s: float
    sent_s: float
    latency_s: float
    status: int | None = None
    request_id: str = ""
    timing_ms: dict[str, float]
    pictures: tuple[bytes, ...] = ()
    exactness: str | None = None
    error: str | None = None
    code: str | None = None
    left: bool = False

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def deadline_met(self) -> bool | None:
        """Whether all pictures came within `slo_ms`, by the client's clock. None if it named none."""
        if self.request.slo_ms is None:
            return None
        return self.ok and self.latency_s * 1000 <= self.request.slo_ms


OnDone = Callable[[Result], None]


def server_timing(header: str) -> dict[str, float]:
    """The durations in ms of a `Server-Timing` header; entries without one are left out."""
    parts: dict[str, float] = {}
    for entry in _COMMA_OUTSIDE_QUOTES.split(header):
        name, *parameters = (piece.strip() for piece in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "dur":
                try:
                    parts[name] = float(value.strip().strip('"'))
                except ValueError:
                    continue
    return parts


async def open_loop(
    base_url: str,
    requests: Sequence[TimedRequest],
    *,
    on_done: OnDone | None = None,
    timeout_s: float = 300.0,
    clock: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> list[Result]:
    """Send each request at its `at_s`; results in the order of `requests`.

    Cancellation closes all connections, which cancels the requests in the server too.
    """
    results: dict[int, Result] = {}

    async def send(session: aiohttp.ClientSession, index: int, due_s: float) -> None:
        results[index] = await _call(session, requests[index], index, due_s, clock)
        if on_done is not None:
            on_done(results[index])

    async with _session(base_url, timeout_s) as session, asyncio.TaskGroup() as group:
        start_s = clock()
        for index in sorted(range(len(requests)), key=lambda i: requests[i].at_s):
            due_s = start_s + requests[index].at_s
            if (wait_s := due_s - clock()) > 0:
                await sleep(wait_s)
            group.create_task(send(session, index, due_s))
    return [results[index] for index in range(len(requests))]


async def closed_loop(
    base_url: str,
    requests: Iterable[TimedRequest],
    *,
    concurrency: int,
    keep: bool = True,
    on_done: OnDone | None = None,
    timeout_s: float = 300.0,
    clock: Clock = time.monotonic,
) -> list[Result]:
    """Keep `concurrency` requests under way until `requests` ends; results in its order.

    `requests` is asked for the next one when a reply has come, so it may look at the world first; `at_s` is
    not used. Without `keep` results are only told of, and none is returned. Cancellation as in `open_loop`.
    """
    results: dict[int, Result] = {}

    async def client(session: aiohttp.ClientSession, shared: Iterator[tuple[int, TimedRequest]]) -> None:
        for index, request in shared:
            result = await _call(session, request, index, clock(), clock)
            if keep:
                results[index] = result
            if on_done is not None:
                on_done(result)

    async with _session(base_url, timeout_s) as session, asyncio.TaskGroup() as group:
        shared = iter(enumerate(requests))
        for _ in range(concurrency):
            group.create_task(client(session, shared))
    return [results[index] for index in sorted(results)]


def _session(base_url: str, timeout_s: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        base_url,
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _call(
    session: aiohttp.ClientSession, request: TimedRequest, index: int, due_s: float, clock: Clock
) -> Result:
    sent_s = clock()
    status: int | None = None
    request_id, timing_ms, pictures = "", dict[str, float](), tuple[bytes, ...]()
    error: str | None = None
    code: str | None = None
    exactness: str | None = None
    patience = asyncio.timeout(request.leave_after_s)
    try:
        async with (
            patience,
            session.post("/v1/images/generations", json=request.body()) as reply,
        ):
            body = await reply.read()
        ended_s = clock()
        status = reply.status
        request_id = reply.headers.get("X-Request-Id", "")
        timing_ms = server_timing(reply.headers.get("Server-Timing", ""))
        if status == 200:
            pictures, exactness = _pictures(body, request.n)
        else:
            message, code = _error(body)
            error = f"status {status}: {message}"
    except (aiohttp.ClientError, TimeoutError, OSError) as problem:
        ended_s = clock()
        error = f"no reply: {str(problem) or type(problem).__name__}"
    except (ValueError, KeyError, TypeError) as problem:
        error = f"not a reply of the images API: {problem!r}"
    return Result(
        index=index,
        request=request,
        due_s=due_s,
        sent_s=sent_s,
        latency_s=ended_s - due_s,
        status=status,
        request_id=request_id,
        timing_ms=timing_ms,
        pictures=pictures,
        exactness=exactness,
        error=error,
        code=code,
        left=patience.expired(),
    )


def _pictures(body: bytes, n: int) -> tuple[tuple[bytes, ...], str | None]:
    """The files, and what was kept, if it is told.

    Raises `ValueError`, `KeyError` or `TypeError` if these are not `n` pictures.
    """
    reply = json.loads(body)
    data = reply["data"]
    pictures = tuple(base64.b64decode(item["b64_json"], validate=True) for item in data)
    if len(pictures) != n:
        raise ValueError(f"{len(pictures)} pictures instead of {n}")
    return pictures, reply.get("exactness")


def _error(body: bytes) -> tuple[str, str | None]:
    """The server's own words and code, or the start of whatever it sent."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        return body[:_MAX_ERROR_CHARS].decode("utf-8", "replace"), None
