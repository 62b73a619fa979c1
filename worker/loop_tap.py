"""Listens inside a family's own denoise loop, without rewriting it.

On a copy of the loop block `loop_step` is replaced: ours calls the original and then reports the boundary.
The family's `__call__` keeps its preamble and clean-up. A loop that continues from a checkpoint passes over
the steps that are done and puts the checkpoint in place before the first live one, or at the last step if
none is. On a GPU the loop runs at most one step ahead of the device (an event per step), or progress, pauses
and cancels would be told of steps that are only queued.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from worker.checkpoint import Checkpoint, capture, changed, restore

Capture = Callable[[], Checkpoint]
OnBoundary = Callable[[int, int, Capture], None]
"""Called with steps done, steps in all, and what makes a checkpoint of this boundary."""


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


def tapped(
    block: Any,
    on_boundary: OnBoundary,
    device: torch.device,
    generator: torch.Generator,
    checkpoint: Checkpoint | None = None,
) -> Any:
    """A copy of loop `block` that calls `on_boundary` before its first live step and after each.

    What `on_boundary` raises leaves the loop; it should be a `BaseException`, because diffusers logs a
    traceback for every `Exception`.
    """
    clone = copy.copy(block)
    pace = _Pace(device)
    original = block.loop_step
    declared = frozenset(output.name for output in block.intermediate_outputs)
    began: dict[str, Any] = {}
    first = 0 if checkpoint is None else checkpoint.step

    def loop_step(components: Any, state: Any, **kwargs: Any) -> Any:
        i, steps = kwargs["i"], len(state.timesteps)
        if not began:
            began.update(vars(state))

        def captured(step: int) -> Capture:
            return lambda: capture(step, changed(began, state) | declared, state, components, generator)

        if checkpoint is not None and i == min(first, steps - 1):
            restore(checkpoint, state, components, generator)
        if i == first or first == steps == i + 1:
            on_boundary(first, steps, captured(first))
        if i < first:
            return components, state
        components, state = original(components, state, **kwargs)
        pace.wait()
        on_boundary(i + 1, steps, captured(i + 1))
        return components, state

    clone.loop_step = loop_step
    return clone
