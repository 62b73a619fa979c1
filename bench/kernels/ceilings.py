"""What the device can do at best, as far as a plain copy and a plain product show it."""

from __future__ import annotations

import torch

from bench.kernels.clock import Clock
from bench.kernels.rows import Job, Row


def jobs(clock: Clock, *, tiny: bool) -> list[Job]:
    """A copy, in bytes read and written, and a matrix product in bfloat16."""
    n_bytes, side = (1 << 20, 64) if tiny else (2 << 30, 8192)

    def copy(row: Row) -> None:
        source = torch.empty(n_bytes // 2, dtype=torch.bfloat16, device=clock.device).normal_()
        target = torch.empty_like(source)
        row.n_bytes = 2 * n_bytes
        clock.measure(row, {"copy": lambda given: target.copy_(given)}, [source])

    def matmul(row: Row) -> None:
        one, other = (torch.randn(side, side, dtype=torch.bfloat16, device=clock.device) for _ in range(2))
        row.n_flop = 2 * side**3
        clock.measure(row, {"matmul": lambda given: given @ other}, [one])

    return [Job("ceilings", "copy", copy), Job("ceilings", "matmul", matmul)]
