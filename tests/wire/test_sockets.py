"""One ROUTER, several DEALERs, real ZeroMQ."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from wire.errors import MessageRefused
from wire.sockets import GatewaySocket, WorkerSocket
from wire.to_gateway import Goodbye, Heartbeat, Phase, StepDone
from wire.to_worker import CancelTask, Stop


async def test_messages_reach_the_one_they_are_for(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/socket"
    with (
        GatewaySocket(endpoint) as gateway,
        WorkerSocket(endpoint, worker="a") as a,
        WorkerSocket(endpoint, worker="b") as b,
    ):
        await a.send(Goodbye(reason="a"))
        await b.send(Goodbye(reason="b"))
        heard = dict([await gateway.receive(), await gateway.receive()])
        assert heard == {"a": Goodbye(reason="a"), "b": Goodbye(reason="b")}
        await gateway.send("b", Stop())
        await gateway.send("a", CancelTask(task_id="t"))
        assert await a.receive() == CancelTask(task_id="t")
        assert await b.receive() == Stop()


async def test_a_restarted_worker_takes_its_name_over(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/socket"
    with GatewaySocket(endpoint) as gateway, WorkerSocket(endpoint, worker="a") as old:
        await old.send(Goodbye(reason="old"))
        await gateway.receive()
        with WorkerSocket(endpoint, worker="a") as new:
            await new.send(Heartbeat(phase=Phase.IDLE, since_s=0.0))
            await gateway.receive()
            await gateway.send("a", Stop())
            assert await new.receive() == Stop()


async def test_garbage_is_refused_and_the_link_goes_on(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/socket"
    liar: zmq.asyncio.Socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    liar.setsockopt(zmq.LINGER, 0)
    liar.setsockopt(zmq.IDENTITY, b"liar")
    with GatewaySocket(endpoint) as gateway, WorkerSocket(endpoint, worker="a") as honest:
        liar.connect(endpoint)
        for garbage in ([b"\xc1"], [b"one", b"two"], []):
            await liar.send_multipart(garbage or [b""])
            with pytest.raises(MessageRefused):
                await gateway.receive()
        await honest.send(Goodbye(reason="fine"))
        assert await gateway.receive() == ("a", Goodbye(reason="fine"))
        liar.close()


async def test_sending_to_nobody_is_dropped(tmp_path: Path) -> None:
    with GatewaySocket(f"ipc://{tmp_path}/socket") as gateway:
        await gateway.send("nobody", Stop())


async def test_a_burst_comes_in_order_and_leaves_others_their_turn(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/socket"
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with GatewaySocket(endpoint) as gateway, WorkerSocket(endpoint, worker="a") as a:
        for step in range(1000):
            await a.send(StepDone(task_id="t", step=step, steps=1000, done_at_s=0.0))
        await a.send(Goodbye(reason="all said"))
        beside = asyncio.create_task(other())
        heard = [(await gateway.receive())[1] for _ in range(1001)]
        beside.cancel()
    assert [message.step for message in heard if isinstance(message, StepDone)] == [*range(1000)]
    assert heard[-1] == Goodbye(reason="all said")
    assert turns >= 10
