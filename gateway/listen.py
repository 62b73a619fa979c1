"""The listening socket, and how many connections it takes.

What a client may keep open without having said who it is, is bounded: connections in number, and each in time
(`idle_timeout_s`: no whole request head, or no byte of a reply taken; `reply_timeout_s`: not all of it).
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from gateway.errors import BadHttp, StartFailed, TooManyConnections

_BACKLOG = 1024


def listen(host: str, port: int, *, idle_timeout_s: float) -> socket.socket:
    """Bound and listening, before anything slow is begun. Raises `StartFailed`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailed(f"port {port} on {host} is in use") from error
        raise StartFailed(f"cannot listen on {host} port {port}: {error.strerror}") from error
    # accepted sockets inherit it; the kernel counts while a reply is sent and not acknowledged, or not taken
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(idle_timeout_s * 1000))
    return listener


def connections(
    server: web.Server, *, max_connections: int, idle_timeout_s: float, reply_timeout_s: float
) -> Callable[[], asyncio.Protocol]:
    """A factory of connections to `server`; one too many is told so and closed."""
    loop = asyncio.get_running_loop()
    # the keep-alive's bound holds from the connection's beginning to its first whole head as well
    options: dict[str, Any] = {"keepalive_timeout": idle_timeout_s, "access_log": None}

    def connection() -> asyncio.Protocol:
        if len(server.connections) >= max_connections:
            return _Refusal()
        return _Connection(server, reply_timeout_s, loop=loop, **options)

    return connection


class _Connection(web.RequestHandler):
    """What is no HTTP is answered like any other error, and is no news for the log: anyone may send it.

    A reply that is taken byte by byte is kept in memory for `reply_timeout_s` and no longer.
    """

    __slots__ = ("_reply_timeout_s",)

    def __init__(self, server: web.Server, reply_timeout_s: float, **options: Any) -> None:
        super().__init__(server, **options)
        self._reply_timeout_s = reply_timeout_s

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            async with asyncio.timeout(self._reply_timeout_s):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                # to close it would go on waiting for the client to take the rest
                self.transport.abort()
            self.force_close()
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        self.logger.debug("no HTTP from %s: %s", request.remote, message)
        error = BadHttp(message or "this is no HTTP request", http_status=status)
        response = web.json_response(error.body(), status=status, headers=error.headers())
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by inheritance
        writer = cast("asyncio.WriteTransport", transport)
        error = TooManyConnections("too many connections are open")
        body = json.dumps(error.body()).encode()
        head = {
            **error.headers(),
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {error.http_status} Service Unavailable"]
        lines += [f"{name}: {value}" for name, value in head.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        writer.close()
