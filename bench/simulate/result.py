"""What a simulation is reported by: a plain dictionary, which is saved raw and from which tables are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.simulate.fleet import Fleet
from bench.simulate.parts import Job, Outcome
from bench.simulate.simulator import Decisions
from bench.stats import percentile

_QS = (50, 95, 99)


def report(fleet: Fleet, decisions: Decisions) -> dict[str, Any]:
    """Seconds, shares and counts. A latency over all arrivals is None where it is infinite: jobs that were
    not served count as never served, so a mean over all is finite only where none was lost.

    `goodput_per_s`: jobs on time per second of arrivals; `makespan_s`: until the last job ended.
    """
    jobs = fleet.book.jobs
    span_s = max(fleet.book.last_arrival_s, 1e-9)
    served = sorted(job.latency_s for job in jobs if job.latency_s is not None)
    n_on_time = sum(job.is_on_time for job in jobs)
    return {
        "n": len(jobs),
        "attainment": n_on_time / len(jobs) if jobs else 1.0,
        "outcomes": {outcome.value: sum(job.outcome is outcome for job in jobs) for outcome in Outcome},
        "all": _latencies(served, len(jobs) - len(served)),
        "served": _latencies(served, 0),
        "dropped_share": 1 - len(served) / len(jobs) if jobs else 0.0,
        "goodput_per_s": n_on_time / span_s,
        "gpu_s": dict(sorted(fleet.accounts.usage_s.items())),
        "busy_share": _busy_share(fleet),
        "pauses": fleet.n_pauses,
        "most_pauses_of_a_job": max((job.n_pauses for job in jobs), default=0),
        "replacements": decisions.n_replacements,
        "deaths": fleet.workers.n_deaths,
        "decisions": len(decisions.seconds),
        "decision_ms": _decision_ms(decisions.seconds),
        "decision_cpu_s": sum(decisions.seconds),
        "makespan_s": fleet.clock.now_s,
        "by_shape": _by_shape(jobs),
    }


def _latencies(served: Sequence[float], n_never: int) -> dict[str, float | None]:
    """`served` in ascending order, followed by `n_never` that are infinite."""
    n = len(served) + n_never
    if not n:
        return {"mean": None, **{f"p{q}": None for q in _QS}}
    mean = None if n_never else sum(served) / n
    return {"mean": mean, **{f"p{q}": _percentile(served, n, q) for q in _QS}}


def _percentile(served: Sequence[float], n: int, q: float) -> float | None:
    place = (n - 1) * q / 100
    low, high = math.floor(place), math.ceil(place)
    if high >= len(served):
        return None
    return served[low] + (served[high] - served[low]) * (place - low)


def _busy_share(fleet: Fleet) -> float:
    devices = [*fleet.workers.live.values(), *fleet.workers.dead.values()]
    held_s = len(devices) * (fleet.clock.now_s - fleet.config.starts_s)
    return sum(device.busy_s for device in devices) / held_s if held_s else 0.0


def _decision_ms(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ms = [1000 * value for value in seconds]
    return {"p50": percentile(ms, 50), "p99": percentile(ms, 99), "max": max(ms)}


def _by_shape(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, tuple[int, int, int]], list[Job]] = {}
    for job in jobs:
        shape = job.view.shape
        key = (job.view.model, (shape.width_px, shape.height_px, shape.frames))
        groups.setdefault(key, []).append(job)
    return [
        {
            "model": model,
            "shape": list(shape),
            "n": len(own),
            "attainment": sum(job.is_on_time for job in own) / len(own),
        }
        for (model, shape), own in sorted(groups.items())
    ]
