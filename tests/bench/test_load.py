from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.load import Result, TimedRequest, closed_loop, open_loop, server_timing

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[TestServer] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_post("/v1/images/generations", handler)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        return str(servers[-1].make_url("/"))

    yield start
    for server in servers:
        await server.close()


def fox(**fields: object) -> TimedRequest:
    return TimedRequest(prompt="fox", seed=1, **fields)  # type: ignore[arg-type]


def pictures(*contents: bytes) -> web.Response:
    data = [{"b64_json": base64.b64encode(content).decode()} for content in contents]
    return web.json_response(
        {"data": data}, headers={"Server-Timing": "queue;dur=1.5, total;dur=20", "X-Request-Id": "req-1"}
    )


class Clock:
    """Stands still unless slept on."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(round(seconds, 6))
        self.now_s += seconds


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("", {}),
        ("queue;dur=5.9, encode;dur=11", {"queue": 5.9, "encode": 11.0}),
        ('db;desc="a, b";dur=3, miss', {"db": 3.0}),
        ("a;dur=x, b; DUR = 2", {"b": 2.0}),
    ],
)
def test_server_timing(header: str, parts: dict[str, float]) -> None:
    assert server_timing(header) == parts


def test_body_leaves_out_what_is_the_servers() -> None:
    assert fox().body() == {"prompt": "fox", "seed": 1, "n": 1}
    assert fox(steps=4, slo_ms=9.0, size="64x64", guidance=0.0).body() == {
        "prompt": "fox",
        "seed": 1,
        "n": 1,
        "size": "64x64",
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
        "slo_ms": 9.0,
    }


async def test_records_what_came(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert await request.json() == fox(n=2, slo_ms=5000.0).body()
        return pictures(b"one", b"two")

    (result,) = await open_loop(await serve(handler), [fox(n=2, slo_ms=5000.0)])
    assert result.ok
    assert result.status == 200
    assert result.request_id == "req-1"
    assert result.timing_ms == {"queue": 1.5, "total": 20.0}
    assert result.pictures == (b"one", b"two")
    assert result.deadline_met is True


async def test_errors_are_results(serve: Serve) -> None:
    async def refusing(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "too many"}}, status=429)

    async def hanging_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def mumbling(request: web.Request) -> web.Response:
        return web.Response(text="hello", status=200)

    async def miscounting(request: web.Request) -> web.Response:
        return pictures(b"one", b"two")

    async def only(handler: Handler) -> Result:
        (result,) = await open_loop(await serve(handler), [fox(slo_ms=60_000.0)])
        assert not result.ok
        assert result.pictures == ()
        assert result.deadline_met is False
        return result

    refused = await only(refusing)
    assert (refused.status, refused.error) == (429, "status 429: too many")
    gone = await only(hanging_up)
    assert gone.status is None
    assert (gone.error or "").startswith("no reply: ")
    assert "not a reply of the images API" in ((await only(mumbling)).error or "")
    assert "2 pictures instead of 1" in ((await only(miscounting)).error or "")


async def test_nobody_listens() -> None:
    (result,) = await open_loop("http://127.0.0.1:1", [fox()])
    assert result.status is None
    assert result.deadline_met is None
    assert not result.ok


async def test_open_loop_sends_when_due_and_keeps_the_order(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return pictures(str((await request.json())["seed"]).encode())

    clock = Clock()
    requests = [
        TimedRequest(prompt="fox", seed=seed, at_s=at_s) for seed, at_s in ((1, 0.5), (2, 0.0), (3, 2.0))
    ]
    told: list[int] = []
    results = await open_loop(
        await serve(handler),
        requests,
        on_done=lambda result: told.append(result.index),
        clock=clock,
        sleep=clock.sleep,
    )
    assert clock.slept_s == [0.5, 1.5]
    assert [result.due_s for result in results] == [100.5, 100.0, 102.0]
    assert [result.pictures for result in results] == [(b"1",), (b"2",), (b"3",)]
    assert sorted(told) == [0, 1, 2]


async def test_latency_counts_from_when_it_was_due(serve: Serve) -> None:
    clock = Clock()

    async def handler(request: web.Request) -> web.Response:
        return pictures(b"x")

    async def oversleep(seconds: float) -> None:
        clock.now_s += seconds + 3.0

    (result,) = await open_loop(
        await serve(handler), [fox(at_s=1.0, slo_ms=2000.0)], clock=clock, sleep=oversleep
    )
    assert result.latency_s == pytest.approx(3.0)
    assert result.deadline_met is False


async def test_closed_loop_keeps_its_number_under_way(serve: Serve) -> None:
    under_way, most, full = 0, 0, asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 3:
            full.set()
        await full.wait()
        under_way -= 1
        return pictures(b"x")

    requests = (TimedRequest(prompt="fox", seed=seed) for seed in range(9))
    results = await closed_loop(await serve(handler), requests, concurrency=3)
    assert [result.request.seed for result in results] == list(range(9))
    assert [result.index for result in results] == list(range(9))
    assert most == 3


async def test_cancelling_leaves_the_server(serve: Serve) -> None:
    arrived = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    running = asyncio.create_task(open_loop(await serve(handler), [fox()]))
    await arrived.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_client_that_leaves_closes_its_connection(serve: Serve) -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return pictures(b"late")

    (result,) = await open_loop(await serve(handler), [fox(leave_after_s=0.05)])
    assert (result.left, result.ok, result.status) == (True, False, None)
    async with asyncio.timeout(10):
        await left.wait()


async def test_further_fields_are_sent_and_codes_are_read(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"error": {"message": "no", "code": body["priority"]}}, status=503)

    (result,) = await open_loop(await serve(handler), [fox(fields={"priority": "batch"}, leave_after_s=30.0)])
    assert (result.code, result.error, result.left) == ("batch", "status 503: no", False)
