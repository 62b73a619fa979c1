"""How a worker process is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["auto", "triton", "torch"]
"""As `kernels.switch` has it, which needs torch, and importing that takes seconds."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What the supervisor tells a worker. `device` is "cpu" or "cuda:N"; `threads` are for a CPU.

    `host_weights`: the node's folder of host copies, of `host_weights_bytes` in sum, None for none.
    `kernels`: "auto", "triton" or "torch", as in `kernels.switch`. `memory_bytes`: bound of the weights that
    the worker holds, None for none.
    """

    worker_id: str
    device: str
    threads: int
    endpoint: str
    handoff: Path
    capacity_bytes: int
    host_weights: Path | None = None
    host_weights_bytes: int = 0
    memory_bytes: int | None = None
    kernels: Mode = "torch"
