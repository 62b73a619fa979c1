"""The worker process: its socket on the main thread, its device on another.

The main thread only receives, forwards and sends heartbeats, so a long step or a long load never looks like
a dead worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import threading
import time
from pathlib import Path

import torch

from kernels.switch import Switch
from wire.codec import PROTOCOL_VERSION
from wire.errors import MessageRefused
from wire.handoff import HandoffStore
from wire.runtime import node_name
from wire.sockets import WorkerSocket
from wire.to_gateway import Goodbye, Heartbeat, Hello, KernelCalls, ToGateway
from wire.to_worker import CancelTask, PauseTask, Refused, Stop, Welcome
from worker.components import Components
from worker.config import WorkerConfig
from worker.device import DeviceLoop
from worker.host_folder import HostFolder

_HELLO_TIMEOUT_S = 30.0


class Rejected(Exception):
    """The gateway does not want this worker."""


async def serve(config: WorkerConfig) -> None:
    """Serve until the gateway says stop. Raises `Rejected`, or `TimeoutError` if no gateway answers, or
    `KernelsUnavailable` if the kernels that it is told to use cannot run on its device.

    Cancellation stops the device at its next step boundary and closes the socket.
    """
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    switch = Switch(config.kernels, device)
    if config.kernels == "auto" and not switch.can_run:
        print("kernels: auto on a CPU is torch's attention and the decoders' CPU form", flush=True)
    store = HandoffStore(config.handoff, node=node_name(), capacity_bytes=config.capacity_bytes)
    loop = asyncio.get_running_loop()
    outbox: asyncio.Queue[ToGateway] = asyncio.Queue()

    def emit(message: ToGateway) -> None:
        # a stopped event loop has no reader left; what a late thread says then is lost on purpose
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(outbox.put_nowait, message)

    folder = config.host_weights
    host = None if folder is None else HostFolder(folder, config.host_weights_bytes)
    device_loop = DeviceLoop(device, store, emit, Components(device, host, config.memory_bytes, switch))
    with WorkerSocket(config.endpoint, worker=config.worker_id) as link:
        await link.send(_hello(config, device.type))
        interval_s = await _welcome(link)
        thread = threading.Thread(target=device_loop.run, name="device")
        thread.start()
        try:
            sender = asyncio.create_task(_send(link, outbox))
            heart = asyncio.create_task(_beat(device_loop, switch, outbox, interval_s))
            await _receive(link, device_loop)
        finally:
            device_loop.stop()
            await asyncio.to_thread(thread.join)
            heart.cancel()
            await asyncio.sleep(0)
            sender.cancel()
            await asyncio.gather(heart, sender, return_exceptions=True)
            while not outbox.empty():
                await link.send(outbox.get_nowait())
            await link.send(Goodbye(reason="stopped"))


def _hello(config: WorkerConfig, device_type: str) -> Hello:
    return Hello(
        protocol_version=PROTOCOL_VERSION,
        worker=config.worker_id,
        pid=os.getpid(),
        node=node_name(),
        device=config.device,
        device_name=_device_name(config.device, device_type),
        threads=config.threads,
        memory_bytes=_memory_bytes(config, device_type),
    )


def _memory_bytes(config: WorkerConfig, device_type: str) -> int | None:
    if config.memory_bytes is None and device_type == "cuda":
        total_bytes: int = torch.cuda.get_device_properties(config.device).total_memory
        return total_bytes
    return config.memory_bytes


def _device_name(device: str, device_type: str) -> str:
    if device_type == "cuda":
        return torch.cuda.get_device_name(device)
    # what the platform module calls the processor is often only its instruction set
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


async def _welcome(link: WorkerSocket) -> float:
    """The heartbeat interval in seconds, once the gateway accepts."""
    async with asyncio.timeout(_HELLO_TIMEOUT_S):
        while True:
            match await link.receive():
                case Welcome(heartbeat_interval_s=interval_s):
                    return interval_s
                case Refused(reason=reason):
                    raise Rejected(reason)
                case Stop():
                    raise Rejected("the gateway is stopping")
                case _:
                    continue


async def _receive(link: WorkerSocket, device_loop: DeviceLoop) -> None:
    """Returns when the gateway says stop."""
    while True:
        try:
            message = await link.receive()
        except MessageRefused as error:
            print(f"worker: ignored a message: {error}", flush=True)
            continue
        match message:
            case Stop():
                return
            case CancelTask():
                device_loop.cancel(message.task_id)
            case PauseTask():
                device_loop.pause(message.task_id)
            case Welcome() | Refused():
                continue
            case _:
                device_loop.submit(message)


async def _send(link: WorkerSocket, outbox: asyncio.Queue[ToGateway]) -> None:
    while True:
        await link.send(await outbox.get())


async def _beat(
    device_loop: DeviceLoop, switch: Switch, outbox: asyncio.Queue[ToGateway], interval_s: float
) -> None:
    while True:
        doing = device_loop.doing
        outbox.put_nowait(
            Heartbeat(
                phase=doing.phase,
                since_s=time.monotonic() - doing.since_s,
                task_id=doing.task_id,
                stage=doing.stage,
                step=doing.step,
                kernels=tuple(KernelCalls(**count._asdict()) for count in switch.counts()),
            )
        )
        await asyncio.sleep(interval_s)
