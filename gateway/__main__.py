"""`python -m gateway`: flags to configuration, signals to a stop, errors to one line and an exit code."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from gateway.config import (
    GatewayConfig,
    cpu_workers,
    gpu_workers,
    n_cores,
    parse_gpus,
    parse_placement,
)
from gateway.errors import OperatorError
from gateway.service import MakeCommand, Stopper, serve

log = logging.getLogger("gateway")

_EPILOG = """exit codes: 0 stopped by a signal; 1 cannot start or go on; 2 a wrong flag.
SIGINT or SIGTERM drains and stops; a second one stops at once."""


def _parser() -> argparse.ArgumentParser:
    default = {
        field.name: field.default for field in msgspec.structs.fields(GatewayConfig) if not field.required
    }
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Serve one diffusion model over HTTP (OpenAI images API), stage by stage.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default=default["host"], help="address to listen on (default %(default)s)")
    add("--port", type=int, default=default["port"], help="TCP port, 0 for a free one (default %(default)s)")
    add(
        "--model",
        action="append",
        metavar="NAME",
        help="a model of the catalogue; may be repeated (default triptych-emoji)",
    )
    add(
        "--catalogue",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a further catalogue file (TOML); may be repeated, later files win",
    )
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--gpus", metavar="LIST", help="GPUs to serve on, one worker each, like 0,1 or 0-7")
    devices.add_argument(
        "--cpu",
        type=int,
        metavar="N",
        help="serve on the CPU with N workers that share the cores (default 2)",
    )
    add(
        "--placement",
        default="auto",
        metavar="HOW",
        help="auto: by the planner's rule; colocated: every stage on every worker; or pinned, like"
        " cpu-0=text_encoder+decode,cpu-1=denoise (default %(default)s)",
    )
    add("--journal", type=Path, metavar="FILE", help="append what happens to FILE as JSON lines")
    add(
        "--max-queued",
        type=int,
        default=default["max_queued_jobs"],
        metavar="N",
        help="pictures that may wait before requests get 429 (default %(default)s)",
    )
    add(
        "--store-capacity-bytes",
        type=int,
        default=default["store_capacity_bytes"],
        metavar="N",
        help="bound of the handoff store (default %(default)s)",
    )
    add(
        "--checkpoint-every",
        type=int,
        default=default["checkpoint_every"],
        metavar="N",
        help="steps between two checkpoints of a denoise loop, 0 for none (default %(default)s)",
    )
    add(
        "--encode-cache-bytes",
        type=int,
        default=default["encode_cache_bytes"],
        metavar="N",
        help="encode results kept for later requests, 0 for none (default %(default)s)",
    )
    add(
        "--decode-memory-bytes",
        type=int,
        default=default["decode_memory_bytes"],
        metavar="N",
        help="bound of one decode: what would need more is decoded in tiles (default: no bound)",
    )
    for name, text in (
        ("mix_window_s", "how far back the observed mix of stages reaches"),
        ("min_dwell_s", "a placement lives at least this long"),
        ("drain_timeout_s", "how long a stop waits for running requests"),
        ("heartbeat_interval_s", "how often workers report"),
        ("heartbeat_timeout_s", "a worker silent for this long is killed"),
        ("stall_timeout_s", "a task without progress for this long, and 5 times its profile, is killed"),
        ("load_timeout_s", "a worker whose load has not ended after this long is killed"),
    ):
        flag = "--" + name.replace("_", "-")
        add(
            flag,
            type=float,
            default=default[name],
            metavar="S",
            help=f"{text}, seconds (default %(default)s)",
        )
    add(
        "--min-samples",
        type=int,
        default=default["min_samples"],
        metavar="N",
        help="finished stages before the placement may change (default %(default)s)",
    )
    add(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="(default %(default)s)",
    )
    return parser


def parse(argv: list[str] | None) -> tuple[GatewayConfig, str]:
    """The configuration and the log level. Raises `ConfigRefused`; exits with 2 on flags that are none."""
    flags = _parser().parse_args(argv)
    if flags.gpus is not None:
        workers = gpu_workers(parse_gpus(flags.gpus), cores=n_cores())
    else:
        workers = cpu_workers(2 if flags.cpu is None else flags.cpu, cores=n_cores())
    config = GatewayConfig(
        models=tuple(flags.model or ("triptych-emoji",)),
        workers=workers,
        host=flags.host,
        port=flags.port,
        catalogues=tuple(flags.catalogue),
        placement=parse_placement(flags.placement),
        journal=flags.journal,
        max_queued_jobs=flags.max_queued,
        store_capacity_bytes=flags.store_capacity_bytes,
        checkpoint_every=flags.checkpoint_every,
        encode_cache_bytes=flags.encode_cache_bytes,
        decode_memory_bytes=flags.decode_memory_bytes,
        mix_window_s=flags.mix_window_s,
        min_dwell_s=flags.min_dwell_s,
        min_samples=flags.min_samples,
        drain_timeout_s=flags.drain_timeout_s,
        heartbeat_interval_s=flags.heartbeat_interval_s,
        heartbeat_timeout_s=flags.heartbeat_timeout_s,
        stall_timeout_s=flags.stall_timeout_s,
        load_timeout_s=flags.load_timeout_s,
    )
    return config.checked(), flags.log_level


async def _serve(config: GatewayConfig, make_command: MakeCommand | None) -> None:
    stopper = Stopper()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopper.ask)
    await serve(
        config,
        stopper=stopper,
        announce=lambda line: print(line, flush=True),
        make_command=make_command,
    )


def main(argv: list[str] | None = None, *, make_command: MakeCommand | None = None) -> int:
    """The exit code. `make_command` says how workers are started, if not as `python -m worker`."""
    try:
        config, level = parse(argv)
        logging.basicConfig(
            level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        log.info("configuration: %s", msgspec.json.encode(config, enc_hook=str).decode())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, make_command))
    except OperatorError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
