"""Times of variants in turns, on a GPU or a CPU.

On a GPU a time is between two events around enough calls to make about a millisecond, so that the gap before
a launch does not count; inputs are rotated, so that none is found in the cache. On a CPU it is processor
time, which other processes disturb less.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from bench.kernels.rows import Row

Run = Callable[[Any], object]

_CACHE_BYTES = 150_000_000
"""Beyond the cache of any GPU that is measured: an H200 has 60 MB."""
_MOST_SETS = 16


class Clock:
    """`n_rounds`: times of each variant. `device`: "cuda" or "cpu"."""

    def __init__(self, device: str, n_rounds: int) -> None:
        self.device = device
        self.n_rounds = n_rounds

    def n_sets(self, n_bytes: int) -> int:
        """How many sets of inputs of `n_bytes` to rotate."""
        if self.device == "cpu":
            return 2
        return max(2, min(_MOST_SETS, 1 + _CACHE_BYTES // max(1, n_bytes)))

    def measure(
        self,
        row: Row,
        variants: dict[str, Run],
        inputs: Sequence[Any],
        within: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
    ) -> None:
        """Fills in `times_s`, and `failed` for a variant that raises while it warms up.

        `within`: entered around the calls of a variant and outside of their time.
        """
        ready: dict[str, tuple[Run, int]] = {}
        for name, run in variants.items():
            try:
                with within(name):
                    for number in range(3 if self.device == "cuda" else 1):
                        run(inputs[number % len(inputs)])
                    once_s = self.seconds(run, inputs, 1, 0)
                ready[name] = (run, max(1, min(100, round(1e-3 / max(once_s, 1e-6)))))
            except Exception as error:  # a backend that does not take a shape says so in many ways
                row.failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                self.forget()
        for name in ready:
            row.times_s[name] = []
        for number in range(self.n_rounds):
            for name, (run, n_calls) in ready.items():
                with within(name):
                    row.times_s[name].append(self.seconds(run, inputs, n_calls, number))

    def seconds(self, run: Run, inputs: Sequence[Any], n_calls: int, first: int) -> float:
        """Of one call."""
        calls = [inputs[(first + number) % len(inputs)] for number in range(n_calls)]
        if self.device == "cpu":
            began_s = time.process_time()
            for each in calls:
                run(each)
            return (time.process_time() - began_s) / n_calls
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        for each in calls:
            run(each)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000 / n_calls

    def peak_bytes(self, run: Run, given: Any) -> int:
        """Most that one call allocates beyond what is held; 0 on a CPU, where nobody counts."""
        if self.device == "cpu":
            return 0
        self.forget()
        held_bytes = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(given)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held_bytes

    def forget(self) -> None:
        """Gives back what nobody holds."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
