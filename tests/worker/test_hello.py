"""What a worker says of its device."""

from __future__ import annotations

from pathlib import Path

from worker.config import WorkerConfig
from worker.process import _hello


def test_it_tells_the_memory_that_it_may_hold(tmp_path: Path) -> None:
    def told(memory_bytes: int | None) -> int | None:
        config = WorkerConfig(
            worker_id="cpu-0",
            device="cpu",
            threads=2,
            endpoint="ipc://nowhere",
            handoff=tmp_path,
            capacity_bytes=1,
            memory_bytes=memory_bytes,
        )
        hello = _hello(config, "cpu")
        # a name by which one machine's CPU is not taken for another's
        assert hello.device_name not in ("", "cpu")
        return hello.memory_bytes

    assert told(5) == 5
    # a CPU has no bound of its own
    assert told(None) is None
