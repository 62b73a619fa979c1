"""The gateway's configuration: one frozen value, checked once, every error naming its field."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Literal

import msgspec

from gateway.errors import ConfigRefused
from gateway.logs import LogFormat
from planner.policies import POLICIES
from planner.types import Parts

_BASE_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")

Placement = Literal["auto", "colocated"] | dict[str, tuple[str, ...]]
"""By the planner's rule, everything everywhere, or worker id -> stages."""

ProfileMode = Literal["auto", "off", "fresh"]
"""What stages cost: read from disk, else measured; neither, learnt from what runs; measured in any case."""

KernelsMode = Literal["auto", "triton", "torch"]
"""The fastest by measurement; Triton's wherever they take a call; torch's own, as diffusers comes."""

PARTS = tuple(part.name for part in fields(Parts))
"""Parts of the planner that can be switched off."""

LogLevel = Literal["debug", "info", "warning", "error"]


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process. `device` is "cpu" or "cuda:N"; `threads` of the CPU are its own."""

    worker_id: str
    device: str
    threads: int


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Durations in seconds. `port` 0 takes a free one.

    A worker is killed when nothing is heard from it for `heartbeat_timeout_s`, when its process has said no
    Hello after `hello_timeout_s`, or when a task has not got on for `stall_timeout_s` and for five times what
    the profile expects, or when one load has not ended after `load_timeout_s`. `max_queued_jobs` bounds the
    pictures that wait, at any stage.

    Every `checkpoint_every` steps a denoise loop writes a checkpoint, 0 for never. Eight, because a lost
    worker then costs at most eight steps, and a checkpoint little against eight steps: 0.9 ms and 39 kB
    against 570 ms with the embedded model on one core; a large model's is tens of MB, and its steps are
    as much longer. Encode results of up to `encode_cache_bytes` are kept for later requests, 0 for none.
    `decode_memory_bytes` bounds what one decode may take, in tiles if need be; None for no bound.

    Weights are kept in host memory once for all workers, up to `host_weights_bytes`: 0 for none, None for
    half of what shared memory has free. A worker holds weights of up to `worker_memory_bytes`, None for no
    bound.

    `policy` decides, a name of `planner.policies`, with the parts of the planner but those of `planner_off`.

    `kernels` is part of what a picture is: its bits are those of the whole pipeline run with the same
    setting. "auto" takes of each call what was measured to be the fastest on that kind of device.

    What stages cost is measured once for each model and kind of device, in about `profile_bound_s`, and kept
    in the folder `profiles`, None for one below the user's cache folder.

    What the planner is told and what it says is written to the file `record`, up to `record_bytes` of it.

    Pictures asked for as URLs are kept in the folder `files` for `file_ttl_s`, up to `files_bytes` of them;
    None for a folder that ends with the gateway. The URLs begin with `public_url`, or else with what the
    client called this server.
    """

    workers: tuple[WorkerSpec, ...]
    models: tuple[str, ...] = ("triptych-emoji",)
    host: str = "127.0.0.1"
    port: int = 8000
    catalogues: tuple[Path, ...] = ()
    placement: Placement = "auto"
    api_keys: Path | None = None
    allow_unauthenticated: bool = False
    journal: Path | None = None
    record: Path | None = None
    record_bytes: int = 1024**3
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    log_prompts: bool = False
    max_queued_jobs: int = 256
    max_body_bytes: int = 1024 * 1024
    max_connections: int = 512
    idle_timeout_s: float = 75.0
    body_timeout_s: float = 30.0
    reply_timeout_s: float = 600.0
    store_capacity_bytes: int = 2 * 1024**3
    checkpoint_every: int = 8
    encode_cache_bytes: int = 64 * 1024**2
    decode_memory_bytes: int | None = None
    host_weights_bytes: int | None = None
    worker_memory_bytes: int | None = None
    kernels: KernelsMode = "auto"
    profile: ProfileMode = "auto"
    profiles: Path | None = None
    profile_bound_s: float = 20.0
    files: Path | None = None
    files_bytes: int = 1024**3
    file_ttl_s: float = 3600.0
    public_url: str | None = None
    policy: str = "triptych"
    planner_off: tuple[str, ...] = ()
    mix_window_s: float = 30.0
    min_dwell_s: float = 10.0
    min_samples: int = 12
    heartbeat_interval_s: float = 1.0
    heartbeat_timeout_s: float = 15.0
    hello_timeout_s: float = 180.0
    stall_timeout_s: float = 10.0
    warm_up_timeout_s: float = 600.0
    load_timeout_s: float = 1800.0
    drain_timeout_s: float = 10.0
    worker_stop_timeout_s: float = 3.0
    max_start_failures: int = 3

    def checked(self) -> GatewayConfig:
        """Itself. Raises `ConfigRefused` for the first field that cannot be honoured."""
        if not self.models:
            raise ConfigRefused("models", "there are none")
        if len(set(self.models)) != len(self.models):
            raise ConfigRefused("models", f"one is there twice: {', '.join(self.models)}")
        if not 0 <= self.port <= 65535:
            raise ConfigRefused("port", f"{self.port} is not between 0 and 65535")
        for name in (
            "max_queued_jobs",
            "max_body_bytes",
            "max_connections",
            "store_capacity_bytes",
            "files_bytes",
            "record_bytes",
            "min_samples",
        ):
            _at_least_one(name, getattr(self, name))
        _at_least_one("max_start_failures", self.max_start_failures)
        if self.public_url is not None and not _BASE_URL.fullmatch(self.public_url):
            raise ConfigRefused("public_url", f"{self.public_url!r} is not like https://pictures.example.org")
        for name in ("decode_memory_bytes", "worker_memory_bytes"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        for name in ("checkpoint_every", "encode_cache_bytes", "host_weights_bytes"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigRefused(name, f"{getattr(self, name)} is less than 0")
        for name in self.__struct_fields__:
            if name.endswith("_s"):
                _positive(name, getattr(self, name))
        if self.policy not in POLICIES:
            raise ConfigRefused("policy", f"{self.policy!r} is none of {', '.join(POLICIES)}")
        for part in self.planner_off:
            if part not in PARTS:
                raise ConfigRefused("planner_off", f"{part!r} is none of {', '.join(PARTS)}")
        if self.heartbeat_timeout_s < 2 * self.heartbeat_interval_s:
            raise ConfigRefused("heartbeat_timeout_s", "is less than two heartbeat intervals")
        if not self.workers:
            raise ConfigRefused("workers", "there are none")
        ids = [worker.worker_id for worker in self.workers]
        if len(set(ids)) != len(ids):
            raise ConfigRefused("workers", f"an id is there twice: {', '.join(ids)}")
        for worker in self.workers:
            _at_least_one("threads", worker.threads)
        if isinstance(self.placement, dict) and self.placement.keys() != set(ids):
            raise ConfigRefused(
                "placement", f"must name each worker once: {', '.join(ids)}; got {', '.join(self.placement)}"
            )
        return self


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigRefused(name, f"{value} is less than 1")


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigRefused(name, f"{value} is not a positive number of seconds")


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_workers(n: int, *, cores: int, threads: int | None = None) -> tuple[WorkerSpec, ...]:
    """`n` CPU workers with `threads` each, or an even share of `cores`. Raises `ConfigRefused`."""
    _at_least_one("cpu", n)
    each = max(1, cores // n) if threads is None else threads
    return tuple(WorkerSpec(worker_id=f"cpu-{i}", device="cpu", threads=each) for i in range(n))


def gpu_workers(gpus: Iterable[int], *, cores: int, threads: int | None = None) -> tuple[WorkerSpec, ...]:
    """One worker for each GPU, by the index that CUDA_VISIBLE_DEVICES would take."""
    indices = tuple(gpus)
    each = max(1, cores // max(1, len(indices))) if threads is None else threads
    return tuple(WorkerSpec(worker_id=f"gpu-{i}", device=f"cuda:{i}", threads=each) for i in indices)


def parse_gpus(text: str) -> tuple[int, ...]:
    """ "0,1,4-7" to indices. Raises `ConfigRefused`."""
    indices: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            indices.extend(range(int(first), int(last or first) + 1))
    except ValueError:
        raise ConfigRefused("gpus", f"{text!r} is not a list like 0,1 or 0-7") from None
    if not indices or len(set(indices)) != len(indices):
        raise ConfigRefused("gpus", f"{text!r} names no GPU, or one twice")
    return tuple(indices)


def parse_placement(text: str) -> Placement:
    """ "auto", "colocated" or "cpu-0=text_encoder+decode,cpu-1=denoise". Raises `ConfigRefused`."""
    if text in ("auto", "colocated"):
        return "auto" if text == "auto" else "colocated"
    pinned: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        worker_id, equals, stages = part.partition("=")
        names = tuple(stages.split("+"))
        if not equals or not worker_id or not all(names) or worker_id in pinned:
            raise ConfigRefused(
                "placement",
                f"{text!r} is neither auto nor colocated nor like cpu-0=text_encoder+decode,cpu-1=denoise",
            )
        pinned[worker_id] = names
    return pinned
