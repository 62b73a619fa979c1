"""What an operator can set: one table, from which flags, environment variables and the file are read.

Flags win over variables, variables over the file, the file over the defaults. Every value is validated by the
type of its field, and an error says where the value came from. No I/O but reading the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import (
    PARTS,
    GatewayConfig,
    cpu_workers,
    gpu_workers,
    n_cores,
    parse_gpus,
    parse_placement,
)
from gateway.errors import ConfigRefused
from planner.policies import POLICIES

_PREFIX = "TRIPTYCH_"
_CONFIG = _PREFIX + "CONFIG"

_EPILOG = f"""Every flag but the last two is also an environment variable, like {_PREFIX}DRAIN_TIMEOUT_S for
--drain-timeout-s and {_PREFIX}MODELS=a,b for --model a --model b, and a line of the --config file, named like
the variable in lower case without its prefix. {_CONFIG} names that file. A flag wins over a variable, a
variable over the file.

python -m gateway keys --help tells how API keys are made, python -m gateway profile --help how a model is
measured by hand.

Exit codes: 0 stopped by a signal; 1 cannot start or go on; 2 a wrong flag, variable or file.
SIGINT or SIGTERM drains and stops, a second one stops at once; SIGHUP reads the API keys again."""


class Setting(msgspec.Struct, frozen=True):
    """One field that an operator sets. `flag` only where it is not the name's own."""

    name: str
    metavar: str
    help: str
    flag: str = ""

    @property
    def flags(self) -> str:
        return self.flag or "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.upper()


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers are made from."""

    gpus: tuple[int, ...] | None = None
    cpu: int | None = None
    threads: int | None = None


SETTINGS: tuple[Setting, ...] = (
    Setting("host", "H", "address to listen on"),
    Setting("port", "P", "TCP port, 0 for a free one"),
    Setting("models", "NAME", "a model of the catalogue; may be repeated", flag="--model"),
    Setting(
        "catalogues",
        "FILE",
        "a further catalogue file (TOML); may be repeated, later files win",
        flag="--catalogue",
    ),
    Setting("gpus", "LIST", "GPUs to serve on, one worker each, like 0,1 or 0-7"),
    Setting("cpu", "N", "serve on the CPU with N workers that share the cores (2 without --gpus)"),
    Setting("threads", "N", "CPU threads of each worker (an even share of the cores)"),
    Setting(
        "placement",
        "HOW",
        "auto: by the planner's rule; colocated: every stage on every worker; or pinned, like"
        " cpu-0=text_encoder+decode,cpu-1=denoise",
    ),
    Setting("api_keys", "FILE", "who may call: a file of API keys"),
    Setting("allow_unauthenticated", "yes", "serve without keys on an address that is not loopback"),
    Setting("journal", "FILE", "append what happens to FILE as JSON lines"),
    Setting("record", "FILE", "write all that the planner is told and says to FILE, for bench replay"),
    Setting("record_bytes", "N", "bound of that file; a recording ends there, the gateway goes on"),
    Setting("log_level", "LEVEL", "debug, info, warning or error"),
    Setting("log_format", "FORM", "text, or json: an object a line"),
    Setting("log_prompts", "yes", "show the beginning of each prompt in the log"),
    Setting("max_queued_jobs", "N", "pictures that may wait before requests get 429", flag="--max-queued"),
    Setting("max_body_bytes", "N", "bound of a request's body"),
    Setting("max_connections", "N", "HTTP connections open at a time"),
    Setting(
        "idle_timeout_s", "S", "a connection that has sent no whole request head for this long is closed"
    ),
    Setting("body_timeout_s", "S", "how long a client may take to send a body"),
    Setting("reply_timeout_s", "S", "how long a client may take to take a reply"),
    Setting("store_capacity_bytes", "N", "bound of the handoff store"),
    Setting("checkpoint_every", "N", "steps between two checkpoints of a denoise loop, 0 for none"),
    Setting("encode_cache_bytes", "N", "encode results kept for later requests, 0 for none"),
    Setting("decode_memory_bytes", "N", "bound of one decode: what would need more is decoded in tiles"),
    Setting(
        "host_weights_bytes",
        "N",
        "weights kept in host memory once for all workers, 0 for none (half of what shared memory has free)",
    ),
    Setting(
        "worker_memory_bytes", "N", "bound of the weights that a worker holds, on a GPU of all it allocates"
    ),
    Setting(
        "kernels",
        "HOW",
        "auto: of each call the fastest by the profile; triton: Triton's wherever they take it; torch:"
        " as diffusers comes",
    ),
    Setting(
        "profile",
        "HOW",
        "what stages cost: auto, read or else measured at start; off, learnt while serving; fresh, measured",
    ),
    Setting("profiles", "DIR", "where measured profiles are kept (below the user's cache folder)"),
    Setting("profile_bound_s", "S", "about how long measuring a model may take"),
    Setting(
        "files", "DIR", "where pictures asked for as URLs are kept (a folder that ends with the gateway)"
    ),
    Setting("files_bytes", "N", "bound of those"),
    Setting("file_ttl_s", "S", "how long such a URL is good"),
    Setting("public_url", "URL", "what such URLs begin with (what the client called this server)"),
    Setting("policy", "NAME", f"who decides: {', '.join(POLICIES)}"),
    Setting(
        "planner_off",
        "PART",
        f"a part of the planner to switch off, of {', '.join(PARTS)}; may be repeated",
    ),
    Setting("mix_window_s", "S", "how far back the observed mix of stages reaches"),
    Setting("min_dwell_s", "S", "a placement lives at least this long"),
    Setting("min_samples", "N", "requested pictures before the placement may change"),
    Setting("heartbeat_interval_s", "S", "how often workers report"),
    Setting("heartbeat_timeout_s", "S", "a worker silent for this long is killed"),
    Setting("hello_timeout_s", "S", "a worker's process that has not said Hello for this long is killed"),
    Setting(
        "stall_timeout_s", "S", "a task without progress for this long, and 5 times its profile, is killed"
    ),
    Setting("warm_up_timeout_s", "S", "the first run of a stage may take this long"),
    Setting("load_timeout_s", "S", "a worker whose load has not ended after this long is killed"),
    Setting("drain_timeout_s", "S", "how long a stop waits for running requests"),
    Setting("worker_stop_timeout_s", "S", "how long workers may take to leave before they are killed"),
    Setting("max_start_failures", "N", "starts in a row after which a worker that never works is given up"),
)
"""Every field of `GatewayConfig` but `workers`, and what those are made from."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_FIELDS = {
    field.name: field
    for kind in (GatewayConfig, Devices)
    for field in msgspec.structs.fields(kind)
    if field.name in _BY_NAME
}
_DEFAULTS = {name: field.default for name, field in _FIELDS.items()}


class Given(msgspec.Struct, frozen=True):
    """One value and where it was set."""

    value: Any
    source: str


Layer = dict[str, Given]


class Effective(msgspec.Struct, frozen=True):
    """What holds. `values` has every name of the table, `sources` those that were set."""

    config: GatewayConfig
    values: dict[str, Any]
    sources: dict[str, str]
    check_only: bool = False

    def summary(self) -> str:
        """What was set and where, in one line."""
        return ", ".join(f"{name} by {source}" for name, source in self.sources.items()) or "all defaults"

    def as_toml(self) -> str:
        """A file that sets the same; each line that was set says where."""
        return "\n".join(map(self._line, self.values))

    def _line(self, name: str) -> str:
        value = self.values[name]
        text = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
        return text + (f"  # {self.sources[name]}" if name in self.sources else "")


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Effective:
    """Raises `ConfigRefused`; leaves with 2 on flags that are none, with 0 after `--help`."""
    given = vars(_parser().parse_args(argv))
    file, check_only = given.pop("config"), given.pop("check_config")
    effective = settle(given, environment, file=file)
    return msgspec.structs.replace(effective, check_only=check_only)


def settle(flags: Mapping[str, Any], environment: Mapping[str, str], *, file: str | None) -> Effective:
    """From flags by field, as text or a list of texts, None where not given. Raises `ConfigRefused`."""
    file = file or environment.get(_CONFIG)
    merged = _merged(
        _from_file(Path(file)) if file else {}, _from_environment(environment), _from_flags(flags)
    )
    values = {name: merged[name].value if name in merged else default for name, default in _DEFAULTS.items()}
    values = {name: values[name] for name in _BY_NAME}
    sources = {name: given.source for name, given in merged.items()}
    try:
        config = _config(values)
        check_kernels(config, environment)
        return Effective(config, values, sources)
    except ConfigRefused as refused:
        raise refused.by(sources) from None


def check_kernels(config: GatewayConfig, environment: Mapping[str, str]) -> None:
    """Raises `ConfigRefused` if workers are to use Triton where there is none."""
    on_cpu = [worker.worker_id for worker in config.workers if worker.device == "cpu"]
    if config.kernels == "triton" and on_cpu and environment.get("TRITON_INTERPRET") != "1":
        where = ", ".join(on_cpu)
        raise ConfigRefused("kernels", f"triton needs a GPU, and {where} has none; auto is torch's there")


def _config(values: dict[str, Any]) -> GatewayConfig:
    cores, threads = n_cores(), values["threads"]
    if values["gpus"] is not None:
        workers = gpu_workers(values["gpus"], cores=cores, threads=threads)
    else:
        values["cpu"] = 2 if values["cpu"] is None else values["cpu"]
        workers = cpu_workers(values["cpu"], cores=cores, threads=threads)
    fields = {name: value for name, value in values.items() if name not in Devices.__struct_fields__}
    return GatewayConfig(workers=workers, **fields).checked()


def _merged(*layers: Layer) -> Layer:
    """The last one wins. GPUs and CPU workers exclude each other, so setting one unsets the other below."""
    merged: Layer = {}
    for layer in layers:
        devices = layer.keys() & {"gpus", "cpu"}
        if len(devices) == 2:
            raise ConfigRefused("gpus", "and cpu exclude each other", source=layer["gpus"].source)
        if devices:
            merged.pop("gpus", None)
            merged.pop("cpu", None)
        merged.update(layer)
    return {name: merged[name] for name in _BY_NAME if name in merged}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Serve diffusion models over HTTP (OpenAI images API), stage by stage.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for setting in SETTINGS:
        add_flag(parser, setting.name)
    parser.add_argument("--config", metavar="FILE", help="read further settings from FILE (TOML)")
    parser.add_argument(
        "--check-config", action="store_true", help="print what is set, as a file for --config, and end"
    )
    return parser


def add_flag(parser: argparse.ArgumentParser, name: str) -> None:
    """The flag of one field. What it is given stays text until `settle`."""
    setting, default = _BY_NAME[name], _DEFAULTS[name]
    shown = setting.help
    if default is not None and default != () and default is not False:
        shown += f" (default {','.join(default) if isinstance(default, tuple) else default})"
    how: dict[str, Any] = {"metavar": setting.metavar}
    if isinstance(default, bool):
        how |= {"nargs": "?", "const": "true"}
    elif isinstance(default, tuple):
        how |= {"action": "append"}
    parser.add_argument(setting.flags, dest=name, help=shown.replace("%", "%%"), **how)


def _from_flags(flags: Mapping[str, Any]) -> Layer:
    sources = {name: f"flag {_BY_NAME[name].flags}" for name in flags}
    return {
        name: Given(_from_text(name, value, sources[name]), sources[name])
        for name, value in flags.items()
        if value is not None
    }


def _from_environment(environment: Mapping[str, str]) -> Layer:
    names = {setting.variable: setting.name for setting in SETTINGS}
    layer: Layer = {}
    for variable, text in environment.items():
        if not variable.startswith(_PREFIX) or variable == _CONFIG:
            continue
        if variable not in names:
            raise ConfigRefused(variable, "there is no such setting", source="environment")
        name, source = names[variable], f"environment {variable}"
        layer[name] = Given(_from_text(name, text, source), source)
    return layer


def _from_file(file: Path) -> Layer:
    try:
        table = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise ConfigRefused("config", f"{file} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigRefused("config", f"{file}: {error}") from error
    source = f"file {file}"
    for name in table:
        if name not in _BY_NAME:
            raise ConfigRefused(name, "there is no such setting", source=source)
    return {
        name: Given(
            # lists of GPUs and placements may be written as on the command line
            _from_text(name, value, source)
            if isinstance(value, str) and name in _SYNTAX
            else _converted(name, value, source, strict=True),
            source,
        )
        for name, value in table.items()
    }


_SYNTAX = {"gpus": parse_gpus, "placement": parse_placement}


def _from_text(name: str, text: str | list[str], source: str) -> Any:
    if isinstance(text, str) and name in _SYNTAX:
        try:
            return _SYNTAX[name](text)
        except ConfigRefused as refused:
            raise refused.by({name: source}) from None
    value = text
    if isinstance(text, str) and isinstance(_DEFAULTS[name], tuple):
        value = [part for part in text.split(",") if part]
    return _converted(name, value, source, strict=False)


def _converted(name: str, value: Any, source: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, _FIELDS[name].type, strict=strict, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigRefused(name, f"{value!r}: {error}", source=source) from None


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise msgspec.ValidationError("Expected a path")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False, default=str)
