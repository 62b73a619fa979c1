"""The link: one ROUTER in the gateway, one DEALER in each worker, over `ipc://` on the node.

Queues are bounded by ZeroMQ's high-water marks. A ROUTER drops what it sends to a peer that has left; the
gateway learns of that from the supervisor and the missing heartbeat, not from the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio

from wire.codec import decode_to_gateway, decode_to_worker, encode
from wire.errors import MessageRefused
from wire.to_gateway import ToGateway
from wire.to_worker import ToWorker

_HIGH_WATER_MESSAGES = 10_000
_MAX_AT_ONCE = 64


def flush() -> None:
    """Wait until what was sent over closed sockets is out, as far as anyone takes it. Ends the links."""
    zmq.asyncio.Context.instance().term()


class _Link:
    def __init__(self, kind: int) -> None:
        self._socket: zmq.asyncio.Socket = zmq.asyncio.Context.instance().socket(kind)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MESSAGES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


class GatewaySocket(_Link):
    """Receives from all workers, sends to one by id. Bound at once."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(zmq.ROUTER)
        # a worker that was restarted takes its id over from the dead one
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(endpoint)
        # the same socket, read without a future for each message: they come in bursts, one for each step
        self._at_once: zmq.Socket[bytes] = zmq.Socket.shadow(self._socket.underlying)
        self._n_at_once = 0

    async def receive(self) -> tuple[str, ToGateway]:
        """The next message with the id of its sender. Raises `MessageRefused`; the link stays usable."""
        identity, *frames = await self._frames()
        worker = identity.decode(errors="replace")
        if len(frames) != 1:
            raise MessageRefused(f"{worker} sent {len(frames)} frames, expected 1")
        return worker, decode_to_gateway(frames[0])

    async def _frames(self) -> list[bytes]:
        if self._n_at_once == _MAX_AT_ONCE:
            # others get a turn, however many messages there are
            self._n_at_once = 0
            await asyncio.sleep(0)
        with contextlib.suppress(zmq.Again):
            frames = self._at_once.recv_multipart(zmq.NOBLOCK)
            self._n_at_once += 1
            return frames
        self._n_at_once = 0
        return await self._socket.recv_multipart()

    async def send(self, worker: str, message: ToWorker) -> None:
        """Queue `message` for `worker`; dropped if that worker is not connected."""
        await self._socket.send_multipart([worker.encode(), encode(message)])


class WorkerSocket(_Link):
    """Talks to the gateway as `worker`. Connected at once; messages wait until the gateway is there."""

    def __init__(self, endpoint: str, *, worker: str) -> None:
        super().__init__(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, worker.encode())
        self._socket.connect(endpoint)

    async def receive(self) -> ToWorker:
        """The next message. Raises `MessageRefused`; the link stays usable."""
        return decode_to_worker(await self._socket.recv())

    async def send(self, message: ToGateway) -> None:
        await self._socket.send(encode(message))
