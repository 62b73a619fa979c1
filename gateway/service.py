"""Puts the parts together, serves until told to stop, and takes them apart.

No process, socket or file stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable

import zmq
from aiohttp import web

from gateway.app import make_app
from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused, ShuttingDown, StartFailed
from gateway.handoffs import Handoffs
from gateway.journal import Journal
from gateway.loop import Engine
from gateway.metrics import Metrics
from gateway.supervisor import Command, Supervisor, worker_command
from pipelines.catalogue import Model, load_catalogue
from pipelines.errors import PipelineError, UnknownModel
from wire.errors import WireError
from wire.handoff import HandoffStore
from wire.runtime import RuntimeFolder, node_name, runtime_root
from wire.sockets import GatewaySocket

log = logging.getLogger(__name__)

_BACKLOG = 1024
_REPLY_GRACE_S = 2.0

MakeCommand = Callable[[RuntimeFolder], Command]
"""From the runtime folder to how a worker is started."""


class Stopper:
    """Says when to stop: asked once, drain; asked again, at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self) -> None:
        (self.hurried if self.asked.is_set() else self.asked).set()


async def serve(
    config: GatewayConfig,
    *,
    stopper: Stopper,
    announce: Callable[[str], None] = print,
    make_command: MakeCommand | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Serve until `stopper` is asked. Raises `OperatorError` if it cannot start or go on.

    Cancellation kills the workers at once and removes the runtime folder.
    """
    model = _model(config)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(config.host, config.port))
        port = listener.getsockname()[1]
        try:
            runtime = stack.enter_context(
                RuntimeFolder(str(port), root=runtime_root(config.store_capacity_bytes))
            )
            link = stack.enter_context(GatewaySocket(runtime.endpoint))
        except (WireError, OSError, zmq.ZMQError) as error:
            raise StartFailed(f"the runtime folder cannot be used: {error}") from error
        store = HandoffStore(runtime.handoff, node=node_name(), capacity_bytes=config.store_capacity_bytes)
        engine = Engine(
            config,
            model,
            socket=link,
            handoffs=Handoffs(store),
            journal=stack.enter_context(Journal(config.journal)),
            metrics=Metrics(),
            clock=clock,
        )
        command = (make_command or _real_command(config))(runtime)
        await _run(config, engine, command, listener, stopper, announce)


async def _run(
    config: GatewayConfig,
    engine: Engine,
    command: Command,
    listener: socket.socket,
    stopper: Stopper,
    announce: Callable[[str], None],
) -> None:
    supervisor = Supervisor(config.workers, command, engine, max_start_failures=config.max_start_failures)
    engine.keeper = supervisor
    app = make_app(engine, max_body_bytes=config.max_body_bytes)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_REPLY_GRACE_S)
    await runner.setup()
    async with asyncio.TaskGroup() as group:
        working = group.create_task(engine.run(), name="engine")
        group.create_task(supervisor.run(), name="supervisor")
        greeting = group.create_task(_announce(config, engine, listener, announce), name="announce")
        try:
            await web.SockSite(runner, listener).start()
            await _first(stopper.asked.wait(), asyncio.shield(engine.failed))
            await _drain(config, engine, stopper)
        finally:
            greeting.cancel()
            engine.desk.end_all()
            await runner.cleanup()
            engine.stop_workers()
            await supervisor.stop(config.worker_stop_timeout_s)
            working.cancel()
            engine.handoffs.free_all()
    engine.book.check()
    if engine.failed.done():
        raise engine.failed.result()


async def _drain(config: GatewayConfig, engine: Engine, stopper: Stopper) -> None:
    """Refuse new requests, wait for the running ones within the bound or until hurried."""
    failure = engine.failed.result() if engine.failed.done() else None
    engine.desk.refuse(ShuttingDown(f"the gateway is stopping{f': {failure}' if failure else ''}"))
    if failure is None:
        log.info("stopping; %d requests are open", len(engine.book.open_requests))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(config.drain_timeout_s):
                await _first(engine.desk.drained(), stopper.hurried.wait(), asyncio.shield(engine.failed))


async def _announce(
    config: GatewayConfig, engine: Engine, listener: socket.socket, announce: Callable[[str], None]
) -> None:
    await engine.ready.wait()
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    workers = ", ".join(worker.worker_id for worker in config.workers)
    announce(f"ready: http://{shown}:{port} model {engine.name} on {workers}")


async def _first(*awaitables: Awaitable[object]) -> None:
    """Returns when the first of them has; cancels the others, also when cancelled itself."""
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            future.cancel()


def _model(config: GatewayConfig) -> Model:
    if len(config.models) > 1:
        raise ConfigRefused("models", "only one can be served")
    try:
        return load_catalogue(*config.catalogues)[config.models[0]]
    except UnknownModel as error:
        raise ConfigRefused("models", str(error)) from error
    except PipelineError as error:
        raise ConfigRefused("catalogues", str(error)) from error


def _listen(host: str, port: int) -> socket.socket:
    """Bound and listening, before anything slow is begun. Raises `StartFailed`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailed(f"port {port} on {host} is in use") from error
        raise StartFailed(f"cannot listen on {host} port {port}: {error.strerror}") from error


def _real_command(config: GatewayConfig) -> MakeCommand:
    def make(runtime: RuntimeFolder) -> Command:
        return worker_command(
            endpoint=runtime.endpoint,
            handoff=runtime.handoff,
            capacity_bytes=config.store_capacity_bytes,
        )

    return make
