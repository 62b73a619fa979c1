"""Puts the parts together, serves until told to stop, and takes them apart.

No process, socket or file stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable

import zmq
from aiohttp import web

from gateway.access import Guard, is_loopback
from gateway.api_keys import KeyRing
from gateway.app import make_app
from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused, ShuttingDown, StartFailed
from gateway.files import FileStore
from gateway.handoffs import Handoffs
from gateway.journal import Journal
from gateway.listen import connections, listen
from gateway.loop import Engine
from gateway.metrics import Metrics
from gateway.recording import Recording
from gateway.supervisor import Command, Supervisor, worker_command
from pipelines.catalogue import Catalogue, load_catalogue
from pipelines.errors import PipelineError, UnknownModel
from wire.errors import WireError
from wire.handoff import HandoffStore
from wire.runtime import SHARED_MEMORY, RuntimeFolder, node_name, runtime_root, spare_bytes
from wire.sockets import GatewaySocket

log = logging.getLogger(__name__)

_REPLY_GRACE_S = 2.0

MakeCommand = Callable[[RuntimeFolder], Command]
"""From the runtime folder to how a worker is started."""


class Stopper:
    """What the operator says while it serves. To stop: asked once, drain; asked again, at once.

    `reload` reads again what may have changed; there is nothing to read before `serve` has begun.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        self.reload: Callable[[], None] = lambda: log.info("there is nothing to read again")

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
    catalogue = _catalogue(config)
    with contextlib.ExitStack() as stack:
        keys = KeyRing(config.api_keys) if config.api_keys is not None else None
        if keys is not None:
            stopper.reload = keys.read_again
        listener = stack.enter_context(listen(config.host, config.port, idle_timeout_s=config.idle_timeout_s))
        guard = _guard(config, listener, keys)
        port = listener.getsockname()[1]
        try:
            runtime = stack.enter_context(RuntimeFolder(str(port), root=runtime_root(_runtime_bytes(config))))
            link = stack.enter_context(GatewaySocket(runtime.endpoint))
        except (WireError, OSError, zmq.ZMQError) as error:
            raise StartFailed(f"the runtime folder cannot be used: {error}") from error
        files = stack.enter_context(
            FileStore(
                config.files or runtime.path / "files",
                capacity_bytes=config.files_bytes,
                ttl_s=config.file_ttl_s,
                public_url=config.public_url,
            )
        )
        store = HandoffStore(runtime.handoff, node=node_name(), capacity_bytes=config.store_capacity_bytes)
        engine = Engine(
            config,
            catalogue,
            socket=link,
            handoffs=Handoffs(store),
            journal=stack.enter_context(Journal(config.journal)),
            metrics=Metrics(),
            clock=clock,
            recording=stack.enter_context(Recording(config.record, max_bytes=config.record_bytes)),
        )
        command = (make_command or _real_command(config))(runtime)
        await _run(config, engine, files, command, listener, guard, stopper, announce)


async def _run(
    config: GatewayConfig,
    engine: Engine,
    files: FileStore,
    command: Command,
    listener: socket.socket,
    guard: Guard,
    stopper: Stopper,
    announce: Callable[[str], None],
) -> None:
    supervisor = Supervisor(config.workers, command, engine, max_start_failures=config.max_start_failures)
    engine.keeper = supervisor
    app = make_app(
        engine,
        files=files,
        max_body_bytes=config.max_body_bytes,
        guard=guard,
        body_timeout_s=config.body_timeout_s,
        log_prompts=config.log_prompts,
    )
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_REPLY_GRACE_S,
    )
    await runner.setup()
    assert runner.server is not None
    connection = connections(
        runner.server,
        max_connections=config.max_connections,
        idle_timeout_s=config.idle_timeout_s,
        reply_timeout_s=config.reply_timeout_s,
    )
    server = await asyncio.get_running_loop().create_server(connection, sock=listener)
    async with asyncio.TaskGroup() as group:
        working = group.create_task(engine.run(), name="engine")
        group.create_task(supervisor.run(), name="supervisor")
        greeting = group.create_task(_announce(config, engine, listener, announce), name="announce")
        try:
            await _first(stopper.asked.wait(), asyncio.shield(engine.failed))
            await _drain(config, engine, stopper)
        finally:
            greeting.cancel()
            engine.desk.end_all()
            server.close()
            await runner.cleanup()
            engine.stop_workers()
            # hurried, now or meanwhile, they are not waited for
            await _first(supervisor.stop(config.worker_stop_timeout_s), stopper.hurried.wait())
            await supervisor.stop(0.0)
            working.cancel()
            engine.handoffs.free_all()
    engine.book.check()
    if engine.failed.done():
        raise engine.failed.result()


async def _drain(config: GatewayConfig, engine: Engine, stopper: Stopper) -> None:
    """Refuse new requests, wait for the running ones within the bound or until hurried."""
    failure = engine.failed.result() if engine.failed.done() else None
    engine.refuse(ShuttingDown(f"the gateway is stopping{f': {failure}' if failure else ''}"))
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
    models = ", ".join(config.models)
    workers = ", ".join(worker.worker_id for worker in config.workers)
    announce(f"ready: http://{shown}:{port} model {models} on {workers}")


async def _first(*awaitables: Awaitable[object]) -> None:
    """Returns when the first of them has; cancels the others, also when cancelled itself."""
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in futures:
            future.cancel()


def _catalogue(config: GatewayConfig) -> Catalogue:
    try:
        catalogue = load_catalogue(*config.catalogues)
        for name in config.models:
            catalogue[name]
    except UnknownModel as error:
        raise ConfigRefused("models", str(error)) from error
    except PipelineError as error:
        raise ConfigRefused("catalogues", str(error)) from error
    return catalogue


def _guard(config: GatewayConfig, listener: socket.socket, keys: KeyRing | None) -> Guard:
    """Raises `ConfigRefused` for an address that others reach, where nobody would be asked for a key."""
    on_loopback = is_loopback(listener.getsockname()[0])
    if not on_loopback and keys is None:
        if not config.allow_unauthenticated:
            raise ConfigRefused(
                "host",
                f"{config.host} can be reached from elsewhere: set api_keys, or allow_unauthenticated"
                " to serve whoever comes",
            )
        log.warning("whoever reaches %s can use this server: it has no API keys", config.host)
    return Guard(keys, host=config.host if on_loopback else None)


def _runtime_bytes(config: GatewayConfig) -> int:
    """What the runtime folder may come to hold."""
    return (
        config.store_capacity_bytes
        + (config.files_bytes if config.files is None else 0)
        + (config.host_weights_bytes or 0)
    )


def _real_command(config: GatewayConfig) -> MakeCommand:
    def make(runtime: RuntimeFolder) -> Command:
        if config.host_weights_bytes and runtime.path.parent != SHARED_MEMORY:
            raise ConfigRefused("host_weights_bytes", f"{SHARED_MEMORY} has no room for them")
        spare = spare_bytes(runtime.path.parent, _runtime_bytes(config))
        host_bytes = spare if config.host_weights_bytes is None else config.host_weights_bytes
        if config.host_weights_bytes is None:
            log.info("host copies of weights: up to %d bytes in %s", host_bytes, runtime.weights)
        return worker_command(
            endpoint=runtime.endpoint,
            handoff=runtime.handoff,
            capacity_bytes=config.store_capacity_bytes,
            host_weights=runtime.weights if host_bytes else None,
            host_weights_bytes=host_bytes,
            memory_bytes=config.worker_memory_bytes,
            kernels=config.kernels,
        )

    return make
