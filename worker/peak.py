"""The most memory that some work held beside what was there before it: weights, earlier outputs.

A GPU's allocator counts by itself. A CPU's does not: torch's profiler records every allocation, which costs a
few per cent of the time, so what is timed is not run under it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

# it writes two lines to stderr for every profile otherwise, as long as this is not set before the first one
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def with_peak(device: torch.device, work: Callable[[], T]) -> tuple[T, int]:
    """What `work` returns and its peak in bytes. Raises what it raises."""
    return _on_cuda(device, work) if device.type == "cuda" else _on_cpu(work)


def _on_cuda(device: torch.device, work: Callable[[], T]) -> tuple[T, int]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before_bytes = torch.cuda.memory_allocated(device)
    result = work()
    torch.cuda.synchronize(device)
    return result, max(0, torch.cuda.max_memory_allocated(device) - before_bytes)


def _on_cpu(work: Callable[[], T]) -> tuple[T, int]:
    with torch.autograd.profiler.profile(profile_memory=True) as recorded:
        result = work()
    assert recorded.kineto_results is not None
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held_bytes = peak_bytes = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held_bytes += event.nbytes()
        peak_bytes = max(peak_bytes, held_bytes)
    return result, peak_bytes
