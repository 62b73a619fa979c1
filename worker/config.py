"""How a worker process is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What the supervisor tells a worker. `device` is "cpu" or "cuda:N"; `threads` are for a CPU."""

    worker_id: str
    device: str
    threads: int
    endpoint: str
    handoff: Path
    capacity_bytes: int
