from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import parse
from gateway.config import (
    GatewayConfig,
    WorkerSpec,
    cpu_workers,
    gpu_workers,
    parse_gpus,
    parse_placement,
)
from gateway.errors import ConfigRefused

WORKER = WorkerSpec(worker_id="cpu-0", device="cpu", threads=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("max_queued_jobs", 0),
        ("store_capacity_bytes", 0),
        ("min_samples", 0),
        ("max_start_failures", 0),
        ("checkpoint_every", -1),
        ("encode_cache_bytes", -1),
        ("decode_memory_bytes", 0),
        ("drain_timeout_s", 0.0),
        ("mix_window_s", float("nan")),
        ("min_dwell_s", float("inf")),
        ("heartbeat_timeout_s", 1.0),
        ("workers", ()),
        ("workers", (WORKER, WORKER)),
        ("placement", {"cpu-1": ("denoise",)}),
        ("placement", {}),
    ],
)
def test_each_bad_field_names_itself(field: str, value: Any) -> None:
    with pytest.raises(ConfigRefused) as refused:
        GatewayConfig(**{"models": ("toy",), "workers": (WORKER,), field: value}).checked()
    assert refused.value.field == field


def test_cpu_workers_share_the_cores() -> None:
    assert [worker.threads for worker in cpu_workers(3, cores=8)] == [2, 2, 2]
    assert [worker.threads for worker in cpu_workers(4, cores=2)] == [1] * 4
    with pytest.raises(ConfigRefused):
        cpu_workers(0, cores=2)


def test_gpu_workers_are_named_by_their_gpu() -> None:
    assert [(w.worker_id, w.device) for w in gpu_workers((0, 3), cores=8)] == [
        ("gpu-0", "cuda:0"),
        ("gpu-3", "cuda:3"),
    ]


@pytest.mark.parametrize(
    ("text", "gpus"), [("0", (0,)), ("0,2", (0, 2)), ("0-3", (0, 1, 2, 3)), ("1,4-5", (1, 4, 5))]
)
def test_lists_of_gpus(text: str, gpus: tuple[int, ...]) -> None:
    assert parse_gpus(text) == gpus


@pytest.mark.parametrize("text", ["", "a", "0,0", "0-1,1", "3-1", "-1", "0,"])
def test_wrong_lists_of_gpus(text: str) -> None:
    with pytest.raises(ConfigRefused):
        parse_gpus(text)


def test_placements() -> None:
    assert parse_placement("auto") == "auto"
    assert parse_placement("colocated") == "colocated"
    assert parse_placement("cpu-0=text_encoder+decode,cpu-1=denoise") == {
        "cpu-0": ("text_encoder", "decode"),
        "cpu-1": ("denoise",),
    }


@pytest.mark.parametrize("text", ["", "both", "cpu-0", "cpu-0=", "=denoise", "cpu-0=a+", "a=b,a=c", "a=b,"])
def test_wrong_placements(text: str) -> None:
    with pytest.raises(ConfigRefused):
        parse_placement(text)


def test_flags_become_the_configuration() -> None:
    flags = (
        "--port 0 --cpu 2 --catalogue a.toml --catalogue b.toml --journal j --max-queued 7 --mix-window-s 5"
        " --min-dwell-s 2.5 --log-level debug --placement cpu-0=a,cpu-1=b --checkpoint-every 0"
        " --encode-cache-bytes 5 --decode-memory-bytes 9"
    )
    config, level = parse(flags.split())
    assert config.catalogues == (Path("a.toml"), Path("b.toml"))
    assert (config.port, config.max_queued_jobs, config.mix_window_s, config.min_dwell_s) == (0, 7, 5.0, 2.5)
    assert (config.journal, level) == (Path("j"), "debug")
    assert config.placement == {"cpu-0": ("a",), "cpu-1": ("b",)}
    assert (config.checkpoint_every, config.encode_cache_bytes, config.decode_memory_bytes) == (0, 5, 9)
    default, _ = parse([])
    assert (default.checkpoint_every, default.decode_memory_bytes) == (8, None)


@pytest.mark.parametrize("flags", ["--port x", "--no-such-flag", "--cpu 1 --gpus 0", "--log-level loud"])
def test_wrong_flags_exit_with_2(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(flags.split())
    assert left.value.code == 2
    assert "error:" in capsys.readouterr().err
