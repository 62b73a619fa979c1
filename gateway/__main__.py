"""`python -m gateway`: configuration to a run, signals to a stop, errors to one line and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

import msgspec
import uvloop

from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused, OperatorError
from gateway.keys_command import keys_command
from gateway.logs import logging_to
from gateway.profile_command import asked_config, profile_command, show_progress
from gateway.service import MakeCommand, Stopper, serve
from gateway.settings import Effective, read

log = logging.getLogger("gateway")


async def _serve(effective: Effective, make_command: MakeCommand | None) -> None:
    stopper = Stopper()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopper.ask)
    loop.add_signal_handler(signal.SIGHUP, lambda: stopper.reload())
    config = effective.config
    log.info("configuration: %s", msgspec.json.encode(config, enc_hook=str).decode())
    log.info("configuration set: %s", effective.summary())
    await serve(
        config,
        stopper=stopper,
        announce=lambda line: print(line, flush=True),
        make_command=make_command,
    )


def _run(effective: Effective, make_command: MakeCommand | None) -> None:
    config = effective.config
    with logging_to(sys.stderr, level=config.log_level, form=config.log_format):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(effective, make_command))
        except ConfigRefused as refused:
            raise refused.by(effective.sources) from refused


def _profile(words: Sequence[str], make_command: MakeCommand | None) -> int:
    asked, copy = asked_config(words, os.environ)

    def run(config: GatewayConfig) -> None:
        stopper = Stopper()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                serve(config, stopper=stopper, announce=lambda line: stopper.ask(), make_command=make_command)
            )

    with logging_to(sys.stderr, level=asked.log_level, form=asked.log_format):
        show_progress()
        return profile_command(asked, copy, run)


def main(argv: list[str] | None = None, *, make_command: MakeCommand | None = None) -> int:
    """The exit code. `make_command` says how workers are started, if not as `python -m worker`."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["keys"]:
            return keys_command(words[1:], os.environ)
        if words[:1] == ["profile"]:
            return _profile(words[1:], make_command)
        effective = read(words, os.environ)
        if effective.check_only:
            print(effective.as_toml())
        else:
            _run(effective, make_command)
    except OperatorError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
