from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from aiohttp import web

from gateway.errors import StartFailed
from gateway.listen import connections, listen
from tests.gateway.conftest import until


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


@pytest.mark.parametrize("takes", [0, 1])
async def test_a_client_that_does_not_take_its_reply_is_left(takes: int) -> None:
    """Nothing of it, or a byte now and then."""

    async def reply(request: web.Request) -> web.StreamResponse:
        # more than the sockets' buffers hold
        return web.Response(body=b"x" * 50_000_000)

    app = web.Application()
    app.router.add_get("/", reply)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    running = runner.server
    assert running is not None
    bounds = {"idle_timeout_s": 60.0, "reply_timeout_s": 0.3} if takes else {"idle_timeout_s": 0.3}
    with listen("127.0.0.1", 0, idle_timeout_s=bounds["idle_timeout_s"]) as listener:
        factory = connections(running, max_connections=9, **{"reply_timeout_s": 60.0, **bounds})
        server = await asyncio.get_running_loop().create_server(factory, sock=listener)
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.setblocking(False)
            await until(lambda: running.connections, "the connection")

            def is_left() -> bool:
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    client.recv(takes)
                return not running.connections

            await until(is_left, "the end of the connection")
        server.close()
        await runner.cleanup()
