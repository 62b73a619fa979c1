"""Finds the fastest way to make each recorded call, in bounded time, by running them on this device.

The tuner knows no op. For each recorded call it gets the variants, torch's first, and measures them in
rounds: the first kernel variant of every call, then the second of every call, so that a bound that comes
early has seen a bit of everything. A variant is timed beside torch's, in turns, so that a clock that drifts
hits both. One that fails, or whose result is not torch's, is told and left out.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kernels.switch import Choice, Switch, Variant

ROUNDS = 7
"""Timed runs of either; their median counts."""

TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 4e-2}
"""Of ||a - b|| / ||b||: enough to tell a wrong result from rounding, which the tests look at.

float32 has room for what torch lets convolutions round to by default on a GPU, ten bits (tf32).
"""


@dataclasses.dataclass(slots=True, eq=False)
class _Call:
    key: str
    torch_path: Variant
    rest: list[Variant]
    wanted: torch.Tensor
    best_s: float = float("inf")
    best: Variant | None = None
    torch_s: float = float("inf")


def tune(switch: Switch, bound_s: float, say: Callable[[str], None] = lambda line: None) -> dict[str, Choice]:
    """Measure what `switch` recorded, use it, and return it. Takes about `bound_s`, mostly compiling.

    Calls for which there was no time stay unmeasured. Results are of random inputs.
    """
    until_s = time.perf_counter() + bound_s
    with switch.uncounted():
        calls = [
            call for key, make in switch.recorded.items() if (call := _prepared(key, make, say)) is not None
        ]
        for number in range(max((len(call.rest) for call in calls), default=0)):
            for call in calls:
                if number < len(call.rest) and time.perf_counter() < until_s:
                    _measure(call, call.rest[number], switch.device, say)
    chosen = {call.key: _choice(call, say) for call in calls if call.best is not None}
    switch.recorded.clear()
    switch.use(chosen)
    return chosen


def _prepared(key: str, make: Callable[[], Sequence[Variant]], say: Callable[[str], None]) -> _Call | None:
    try:
        first, *rest = make()
        return _Call(key, first, rest, first.run())
    except RuntimeError as error:
        # no memory for a second set of inputs, as a rule
        say(f"{key}: not measured, {error}")
        return None


def _measure(call: _Call, variant: Variant, device: torch.device, say: Callable[[str], None]) -> None:
    try:
        apart = _difference(variant.run(), call.wanted)
        if not apart <= TOLERANCE.get(call.wanted.dtype, 0.0):
            say(f"{call.key}: {variant.settings} is left out, its result differs by {apart:.1e}")
            return
        pairs = [(_seconds(call.torch_path, device), _seconds(variant, device)) for _ in range(ROUNDS)]
    except Exception as error:  # a compiler's errors are of many kinds, and a variant that fails is no loss
        say(f"{call.key}: {variant.settings} is left out, {type(error).__name__}: {str(error)[:200]}")
        return
    call.torch_s = min(call.torch_s, statistics.median(seconds for seconds, _ in pairs))
    seconds = statistics.median(seconds for _, seconds in pairs)
    if seconds < call.best_s:
        call.best_s, call.best = seconds, variant


def _choice(call: _Call, say: Callable[[str], None]) -> Choice:
    assert call.best is not None
    path = call.best.path if call.best_s < call.torch_s else call.torch_path.path
    say(
        f"{call.key}: {path}, {1e6 * call.best_s:.0f} us with {tuple(call.best.settings)},"
        f" torch {1e6 * call.torch_s:.0f} us"
    )
    return Choice(path, tuple(call.best.settings))


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    wide = other.double()
    return float((one.double() - wide).norm() / wide.norm().clamp(min=1e-30))


def _seconds(variant: Variant, device: torch.device) -> float:
    if device.type != "cuda":
        began_s = time.perf_counter()
        variant.run()
        return time.perf_counter() - began_s
    events: Any = torch.cuda.Event
    begin, end = events(enable_timing=True), events(enable_timing=True)
    begin.record()
    variant.run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
