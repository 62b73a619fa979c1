from __future__ import annotations

from typing import Any

import pytest

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
        ("worker_memory_bytes", 0),
        ("host_weights_bytes", -1),
        ("drain_timeout_s", 0.0),
        ("mix_window_s", float("nan")),
        ("min_dwell_s", float("inf")),
        ("heartbeat_timeout_s", 1.0),
        ("models", ()),
        ("models", ("toy", "toy")),
        ("max_connections", 0),
        ("files_bytes", 0),
        ("file_ttl_s", 0.0),
        ("public_url", "pictures.example.org"),
        ("public_url", "https://pictures.example.org/?x=1"),
        ("public_url", "https://"),
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
    assert [worker.threads for worker in cpu_workers(2, cores=8, threads=3)] == [3] * 2
    with pytest.raises(ConfigRefused):
        cpu_workers(0, cores=2)


def test_gpu_workers_are_named_by_their_gpu() -> None:
    assert [(w.worker_id, w.device) for w in gpu_workers((0, 3), cores=8)] == [
        ("gpu-0", "cuda:0"),
        ("gpu-3", "cuda:3"),
    ]
    assert gpu_workers((1,), cores=8, threads=5)[0].threads == 5


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
