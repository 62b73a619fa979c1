"""Listens inside a family's own denoise loop, without rewriting it.

On a copy of the loop block `loop_step` is replaced: ours calls the original and then reports the boundary.
The family's `__call__` keeps its preamble and clean-up. On a GPU the loop runs at most one step ahead of the
device (an event per step), or progress and cancels would be told of steps that are only queued.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

OnBoundary = Callable[[int, int], None]


class _Pace:
    """Keeps the host at most one step ahead of a CUDA device; nothing on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: torch.cuda.Event | None = None

    def wait(self) -> None:
        if self._device.type != "cuda":
            return
        if self._last is not None:
            self._last.synchronize()
        self._last = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._last.record()


def tapped(block: Any, on_boundary: OnBoundary, device: torch.device) -> Any:
    """A copy of loop `block` that calls `on_boundary(steps_done, steps)` at the start and after each step.

    What `on_boundary` raises leaves the loop; it should be a `BaseException`.
    """
    clone = copy.copy(block)
    pace = _Pace(device)
    original = block.loop_step

    def loop_step(components: Any, state: Any, **kwargs: Any) -> Any:
        steps = len(state.timesteps)
        if kwargs["i"] == 0:
            on_boundary(0, steps)
        result = original(components, state, **kwargs)
        pace.wait()
        on_boundary(kwargs["i"] + 1, steps)
        return result

    clone.loop_step = loop_step
    return clone
