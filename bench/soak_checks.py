"""What a node must hold no more of after a soak, and what is reported of it. Pure arithmetic."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.demo_checks import Check
from bench.soak import Soak
from bench.stats import percentiles

GROWTH_SHARE, GROWTH_BYTES = 0.05, 16 * 1024**2
"""A process may grow by this share of itself, or by these bytes, within the last half of the load."""


def checks(soak: Soak) -> tuple[Check, ...]:
    """All of them, in the order of the report."""
    return (
        _answered(soak),
        *(_memory(soak, name) for name in _names(soak)),
        *(_descriptors(soak, name) for name in _names(soak)),
        *(_threads(soak, name) for name in _names(soak)),
        _store(soak),
    )


def _answered(soak: Soak) -> Check:
    text = ", ".join(f"{n} {outcome}" for outcome, n in soak.outcomes.most_common(5))
    return Check(name="every request answered", passed=set(soak.outcomes) == {"200"}, text=text)


def _memory(soak: Soak, name: str) -> Check:
    """A line through the last half of the load; what it rises by, and what was held at the end."""
    half = [s for s in soak.samples if soak.plan.load_s / 2 <= s.at_s <= soak.load_end_s]
    grown_bytes = growth([s.at_s for s in half], [s.processes[name].pss_bytes for s in half])
    held = sum(s.processes[name].pss_bytes for s in half) / max(1, len(half))
    bound_bytes = max(GROWTH_BYTES, GROWTH_SHARE * held)
    begin_bytes, end_bytes = (soak.samples[i].processes[name].pss_bytes for i in (0, -1))
    passed = bool(half) and grown_bytes <= bound_bytes and end_bytes <= held + bound_bytes
    text = (
        f"{_mib(begin_bytes)} before, {_mib(held)} in the last half of the load,"
        f" where it grew by {_mib(grown_bytes)} (bound {_mib(bound_bytes)}), {_mib(end_bytes)} at the end"
    )
    return Check(name=f"memory of {name}", passed=passed, text=text)


def _descriptors(soak: Soak, name: str) -> Check:
    """As many as before."""
    counts = [sample.processes[name].n_descriptors for sample in soak.samples]
    text = f"{counts[0]} before, {max(counts)} at most, {counts[-1]} at the end"
    return Check(name=f"descriptors of {name}", passed=counts[-1] <= counts[0], text=text)


def _threads(soak: Soak, name: str) -> Check:
    """Those of before, and asyncio's own pool, which keeps the ones that it once had."""
    counts = [sample.processes[name].n_threads for sample in soak.samples]
    bound = counts[0] + min(32, (os.cpu_count() or 1) + 4)
    text = f"{counts[0]} before, {max(counts)} at most (bound {bound}), {counts[-1]} at the end"
    return Check(name=f"threads of {name}", passed=max(counts) <= bound, text=text)


def _store(soak: Soak) -> Check:
    before, end = soak.samples[0], soak.samples[-1]
    most = max(sample.store_bytes for sample in soak.samples)
    text = (
        f"{before.store_bytes} bytes before, {most} at most, {end.store_bytes} at the end; besides"
        f" {_mib(end.kept_bytes)} of known encodes, and {end.n_open} requests open"
    )
    passed = end.store_bytes <= before.store_bytes and end.n_open == 0
    return Check(name="shared memory", passed=passed, text=text)


def growth(at_s: Sequence[float], values: Sequence[float]) -> float:
    """What the straight line through the points (least squares) rises by from the first to the last."""
    if len(at_s) < 2:
        return 0.0
    mean_s, mean = sum(at_s) / len(at_s), sum(values) / len(values)
    spread = sum((t - mean_s) ** 2 for t in at_s)
    slope = sum((t - mean_s) * (v - mean) for t, v in zip(at_s, values, strict=True)) / spread
    return slope * (at_s[-1] - at_s[0])


def report(soak: Soak) -> dict[str, Any]:
    """The numbers, raw and summed up."""
    plan = soak.plan
    loaded = [sample for sample in soak.samples if sample.at_s <= soak.load_end_s]
    return {
        "benchmark": "soak",
        "question": "Does a node that was under load hold as much afterwards as it did before?",
        "model": plan.model,
        "real_workers": plan.devices is not None,
        "load_s": plan.load_s,
        "load_end_s": round(soak.load_end_s, 1),
        "idle_s": plan.idle_s,
        "max_open": plan.max_open,
        "steps": plan.steps,
        "n": soak.outcomes.total(),
        "passed": all(check.passed for check in checks(soak)),
        "checks": [{"name": c.name, "passed": c.passed, "text": c.text} for c in checks(soak)],
        "health_ms": percentiles([sample.health_ms for sample in loaded], 50, 95, 100),
        "raw": [msgspec.to_builtins(sample) for sample in soak.samples],
    }


def _names(soak: Soak) -> list[str]:
    """Processes that were there all the time."""
    return [
        name for name in soak.samples[0].processes if all(name in sample.processes for sample in soak.samples)
    ]


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 1024**2:.1f} MiB"
