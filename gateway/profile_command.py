"""`python -m gateway profile`: measures a model on one device by hand, as a start without a profile does.

It is such a start: a gateway on a free port with one worker, which stops once it is ready. What was measured
is then kept where the next one looks for it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused
from gateway.profile_table import lines
from gateway.profiles import Kept, ProfileFolder, default_folder
from gateway.settings import add_flag, settle

_EPILOG = """What is measured is kept below --profiles and read by the next start with the same model, device,
threads and versions. On a CPU the threads are those that one worker of such a start has; --cpu says of how
many workers, --threads says it outright.

Exit codes: 0; 1 it cannot be measured, or not kept; 2 a wrong flag or file."""

_FLAGS = (
    "catalogues",
    "cpu",
    "threads",
    "profiles",
    "profile_bound_s",
    "kernels",
    "decode_memory_bytes",
    "worker_memory_bytes",
    "host_weights_bytes",
)


def asked_config(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[GatewayConfig, Path | None]:
    """What is to be started, and the file for a copy of what comes of it. Raises `ConfigRefused`."""
    asked = _parser().parse_args(argv)
    flags = {name: getattr(asked, name) for name in _FLAGS}
    flags |= {"models": None if asked.model is None else [asked.model], "gpus": None}
    if asked.device.startswith("cuda"):
        flags |= {"gpus": asked.device.partition(":")[2] or "0", "cpu": None}
    elif asked.device == "cpu":
        flags["cpu"] = flags["cpu"] or "2"
    else:
        raise ConfigRefused("device", f"{asked.device!r} is neither cpu nor cuda:N", source="flag --device")
    config = settle(flags, environment, file=asked.config).config
    here = msgspec.structs.replace(
        config,
        workers=config.workers[:1],
        models=config.models[:1],
        host="127.0.0.1",
        port=0,
        placement="colocated",
        profile="fresh",
        profiles=config.profiles or default_folder(environment),
        api_keys=None,
        journal=None,
        record=None,
        log_level="warning",
    )
    return here.checked(), asked.json


def profile_command(config: GatewayConfig, copy: Path | None, run: Callable[[GatewayConfig], None]) -> int:
    """The exit code. `run` serves by a configuration until it is ready. Raises what that raises."""
    assert config.profiles is not None
    folder = ProfileFolder(config.profiles)
    with tempfile.TemporaryDirectory() as scratch:
        # what is new there is what was measured, whatever else is kept
        run(msgspec.structs.replace(config, profiles=Path(scratch)))
        files = sorted(Path(scratch).iterdir())
        if not files:
            return _told(f"{config.models[0]} could not be measured")
        data = files[0].read_bytes()
    kept = msgspec.json.decode(data, type=Kept)
    print("\n".join(lines(kept.measurements)))
    if copy is not None:
        try:
            copy.write_bytes(data)
        except OSError as error:
            return _told(f"{copy} cannot be written: {error.strerror}")
    if (file := folder.write(kept.key, kept.measurements)) is None:
        return _told(f"the profile cannot be kept in {folder.path}")
    print(f"kept as {file}")
    return 0


def show_progress() -> None:
    """Lines of the measurement go to the log whatever its level."""
    logging.getLogger("gateway.measuring").setLevel(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway profile",
        description="Measure what a model's stages cost on a device of this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="its name (default: the one served first)")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda:N (default cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to FILE as well")
    for name in _FLAGS:
        add_flag(parser, name)
    parser.add_argument("--config", metavar="FILE", help="the gateway's configuration file")
    return parser


def _told(problem: str) -> int:
    print(f"gateway profile: {problem}", file=sys.stderr)
    return 1
