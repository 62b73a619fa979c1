"""How workers are told where weights are kept for all of them, and how much."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import GatewayConfig, WorkerSpec
from gateway.errors import ConfigRefused
from gateway.service import _real_command
from wire.runtime import SHARED_MEMORY, RuntimeFolder

WORKER = WorkerSpec(worker_id="cpu-0", device="cpu", threads=1)


def told(root: Path, **fields: int | None) -> str:
    config = GatewayConfig(workers=(WORKER,), **fields)  # type: ignore[arg-type]
    return " ".join(_real_command(config)(RuntimeFolder("told", root=root))(WORKER))


def test_a_bound_is_passed_on() -> None:
    folder = RuntimeFolder("told", root=SHARED_MEMORY).weights
    line = told(SHARED_MEMORY, host_weights_bytes=5, worker_memory_bytes=7)
    assert line.endswith(f"--host-weights {folder} --host-weights-bytes 5 --memory-bytes 7")
    assert "--host-weights" not in told(SHARED_MEMORY, host_weights_bytes=0)


def test_without_one_it_is_of_what_shared_memory_has(tmp_path: Path) -> None:
    words = told(SHARED_MEMORY, store_capacity_bytes=1, files_bytes=1).split()
    assert int(words[words.index("--host-weights-bytes") + 1]) > 0
    # a copy on a disk would be no copy in memory
    assert "--host-weights" not in told(tmp_path)


def test_a_bound_that_shared_memory_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused) as refused:
        told(tmp_path, host_weights_bytes=5)
    assert refused.value.field == "host_weights_bytes"
