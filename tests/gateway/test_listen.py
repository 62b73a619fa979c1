from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from gateway.errors import StartFailed
from gateway.listen import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_it_listens_where_it_is_told(host: str) -> None:
    with listen(host, 0, idle_timeout_s=1.0) as listener:
        socket.create_connection(listener.getsockname()[:2], timeout=5).close()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1 port 0: "),
        ("no.such.host.invalid", "cannot listen on no.such"),
    ],
)
def test_an_address_that_is_none_is_said(host: str, said: str) -> None:
    with pytest.raises(StartFailed, match=said):
        listen(host, 0, idle_timeout_s=1.0)


async def test_a_client_that_does_not_take_its_reply_is_left() -> None:
    ended = asyncio.Event()

    async def reply(request: web.Request) -> web.StreamResponse:
        try:
            # more than the sockets' buffers hold
            response = web.Response(body=b"x" * 50_000_000)
            await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            ended.set()

    app = web.Application()
    app.router.add_get("/", reply)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    with listen("127.0.0.1", 0, idle_timeout_s=0.3) as listener:
        assert runner.server is not None
        server = await asyncio.get_running_loop().create_server(runner.server, sock=listener)
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(ended.wait(), 30)
        server.close()
        await runner.cleanup()
