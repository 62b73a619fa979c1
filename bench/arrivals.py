"""Who asks for what when: seeded arrival processes and trace files. Nothing here knows how they are served.

Load 1.0 is the most that a mix allows a fleet: as many GPU-seconds arrive per second as it has GPUs, each job
counted at its cheapest degree that meets its deadline alone. In every kind it is the load of the whole trace;
in all but `burst` and `diurnal` it is that of every part of it too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType

from bench.costs import Costs
from planner.types import Shape

BURST_CV = 4.0
SPIKE_S, SPIKE_EVERY_S, SPIKE_FACTOR = 20.0, 300.0, 8.0
"""Within each `SPIKE_EVERY_S`, from 120 s on, the rate is `SPIKE_FACTOR` times as high for `SPIKE_S`."""
_FIRST_SPIKE_S = 120.0

DIURNAL_SWING = 0.6
"""How far the rate of the day goes above and below its mean, which is its lowest at both ends."""


class TraceUnreadable(Exception):
    """A file is no trace, or asks for what the costs do not have."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One job. `slo_s`: from arrival to deadline."""

    at_s: float
    model: str
    shape: Shape
    steps: int
    slo_s: float


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be asked for: one model at one shape, and what it takes. `work_s`: GPU-seconds, cheapest."""

    model: str
    shape: Shape
    steps: int
    slo_s: float
    work_s: float

    def at(self, at_s: float) -> Arrival:
        return Arrival(at_s, self.model, self.shape, self.steps, self.slo_s)


def kinds_of(costs: Costs, model: str, *, fastest_slo: bool = False) -> tuple[Kind, ...]:
    """The model's mix, least work first."""
    table = costs.models[model]
    kinds = []
    for shape in table.mix:
        slo_s = table.slo_s(shape, fastest=fastest_slo)
        kinds.append(Kind(model, shape, table.steps, slo_s, table.cheapest_s(shape, slo_s)))
    return tuple(sorted(kinds, key=lambda kind: (kind.work_s, kind.shape)))


def even(kinds: Sequence[Kind], busy: float, span_s: float, rng: Random) -> list[Arrival]:
    """Evenly spaced, the shapes uniform and shuffled.

    Source: the traces published with TridentServe's code (PKU-DAIR/Hetu-DiT).
    """
    rate = busy / _mean_work_s(kinds)
    asked = [kinds[place % len(kinds)] for place in range(int(rate * span_s))]
    rng.shuffle(asked)
    return [kind.at(place / rate) for place, kind in enumerate(asked)]


def poisson(kinds: Sequence[Kind], busy: float, span_s: float, rng: Random) -> list[Arrival]:
    """Exponential gaps, uniform shapes."""
    rate = busy / _mean_work_s(kinds)
    return _drawn(span_s, lambda _: rng.expovariate(rate), lambda _: rng.choice(kinds))


def burst(kinds: Sequence[Kind], busy: float, span_s: float, rng: Random) -> list[Arrival]:
    """Gaps of a gamma distribution with a coefficient of variation of 4, and spikes; uniform shapes."""
    starts_s = [_FIRST_SPIKE_S + n * SPIKE_EVERY_S for n in range(math.ceil(span_s / SPIKE_EVERY_S))]
    spikes_s = [(start_s, min(span_s, start_s + SPIKE_S)) for start_s in starts_s if start_s < span_s]
    share = sum(end_s - start_s for start_s, end_s in spikes_s) / span_s
    base = busy / _mean_work_s(kinds) / (1 + (SPIKE_FACTOR - 1) * share)
    shape = 1 / BURST_CV**2

    def gap_s(at_s: float) -> float:
        spiking = any(start_s <= at_s < end_s for start_s, end_s in spikes_s)
        rate = base * (SPIKE_FACTOR if spiking else 1.0)
        return rng.gammavariate(shape, 1 / (shape * rate))

    return _drawn(span_s, gap_s, lambda _: rng.choice(kinds))


def shift(kinds: Sequence[Kind], busy: float, span_s: float, rng: Random) -> list[Arrival]:
    """From the smaller half of the shapes to the larger: both kinds of gaps are exponential, and the rate
    falls as the work of a job grows, so that the load stays what it is."""
    half = len(kinds) // 2
    small, large = kinds[: len(kinds) - half], kinds[half:]
    small_s, large_s = _mean_work_s(small), _mean_work_s(large)

    def gap_s(at_s: float) -> float:
        part = at_s / span_s
        return rng.expovariate(busy / (part * large_s + (1 - part) * small_s))

    def kind(at_s: float) -> Kind:
        return rng.choice(large if rng.random() < at_s / span_s else small)

    return _drawn(span_s, gap_s, kind)


def diurnal(kinds: Sequence[Kind], busy: float, span_s: float, rng: Random) -> list[Arrival]:
    """A day squeezed into the span: the rate of a Poisson process is one wave from low to high to low."""
    rate = busy / _mean_work_s(kinds)
    most = rate * (1 + DIURNAL_SWING)
    candidates = _drawn(span_s, lambda _: rng.expovariate(most), lambda _: rng.choice(kinds))
    return [
        arrival
        for arrival in candidates
        if rng.random() * most < rate * (1 - DIURNAL_SWING * math.cos(2 * math.pi * arrival.at_s / span_s))
    ]


Process = Callable[[Sequence[Kind], float, float, Random], list[Arrival]]
PROCESSES: Mapping[str, Process] = MappingProxyType(
    {"even": even, "poisson": poisson, "burst": burst, "shift": shift, "diurnal": diurnal}
)
"""By name. Each takes the kinds, the GPUs that they are to keep busy, the span in seconds and the lots."""


def arrivals(
    costs: Costs,
    process: str,
    *,
    load: float,
    n_gpus: int,
    span_s: float,
    seed: int,
    fastest_slo: bool = False,
) -> list[Arrival]:
    """Of every model of `costs`, each with an equal part of the load; ordered by time.

    Raises `KeyError` for a process that is not in `PROCESSES`.
    """
    make = PROCESSES[process]
    rng = Random(f"{process} {seed}")
    busy = load * n_gpus / len(costs.models)
    made: list[Arrival] = []
    for model in sorted(costs.models):
        made += make(kinds_of(costs, model, fastest_slo=fastest_slo), busy, span_s, rng)
    return sorted(made, key=lambda arrival: arrival.at_s)


def read_trace(file: Path, costs: Costs, *, fastest_slo: bool = False) -> list[Arrival]:
    """A JSON line for each job: at_s, model, width_px, height_px, and frames, guided, steps and slo_s if not
    as usual. Ordered by time. Raises `TraceUnreadable`."""
    made = []
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise TraceUnreadable(f"{file}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            table = costs.models[row["model"]]
            size = Shape(row["width_px"], row["height_px"], row.get("frames", 1), row.get("guided", True))
            if not table.degrees(size):
                raise ValueError(f"there are no costs of {size}")
            slo_s = row.get("slo_s", table.slo_s(size, fastest=fastest_slo))
            made.append(Arrival(row["at_s"], row["model"], size, row.get("steps", table.steps), slo_s))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceUnreadable(f"{file}:{number}: {error!r}") from error
    return sorted(made, key=lambda arrival: arrival.at_s)


def _mean_work_s(kinds: Sequence[Kind]) -> float:
    return sum(kind.work_s for kind in kinds) / len(kinds)


def _drawn(span_s: float, gap_s: Callable[[float], float], kind: Callable[[float], Kind]) -> list[Arrival]:
    made = []
    at_s = gap_s(0.0)
    while at_s < span_s:
        made.append(kind(at_s).at(at_s))
        at_s += gap_s(at_s)
    return made
