"""What is kept of a simulation: one short row. Means over the seeds are taken here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, NamedTuple

from bench.rivals.grid import B1, Key

ENCODE, LOOP, DECODE = "text_encoder", "denoise", "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One simulation, or one bound, of which only `n` and `attainment` are there.

    Latencies in seconds: of served jobs, and (`all_`) of all arrivals, of which the unserved ones are
    infinite, which is None here like a figure that is missing. Shares are of all arrivals: `unserved` for
    whatever reason, `out_of_memory` for want of it. `gpu_s_`: GPU-seconds in the stages, and in what else
    took a GPU. `by_kind`: share on time by shape, in the order of pixels. Milliseconds and seconds of
    deciding and simulating are CPU time.
    """

    world: str
    model: str
    arrivals: str
    load: float
    seed: int
    policy: str
    n: int
    attainment: float
    unserved: float | None = None
    out_of_memory: float | None = None
    mean_s: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    all_p50_s: float | None = None
    all_p95_s: float | None = None
    all_p99_s: float | None = None
    goodput_per_s: float | None = None
    gpu_s_encode: float | None = None
    gpu_s_loop: float | None = None
    gpu_s_decode: float | None = None
    gpu_s_other: float | None = None
    busy: float | None = None
    pauses: int | None = None
    replacements: int | None = None
    decisions: int | None = None
    decision_p50_ms: float | None = None
    decision_p99_ms: float | None = None
    decision_max_ms: float | None = None
    cpu_s: float | None = None
    by_kind: tuple[float, ...] = ()

    @property
    def key(self) -> Key:
        return (self.world, self.model, self.arrivals, self.load, self.seed, self.policy)

    @property
    def is_too_large(self) -> bool:
        """Nothing at all could be served, for want of memory."""
        return self.out_of_memory == 1.0

    def as_list(self) -> list[Any]:
        """For a file; six digits of each figure."""
        return [_short(value) for value in astuple(self)]


COLUMNS = tuple(each.name for each in fields(Row))


def from_list(values: Sequence[Any]) -> Row:
    """What `as_list` made. Raises `TypeError` or `ValueError` for anything else."""
    row = Row(**dict(zip(COLUMNS, values, strict=True)))
    return replace(row, by_kind=tuple(row.by_kind))


def row_of(key: Key, report: Mapping[str, Any], cpu_s: float) -> Row:
    """Of what `bench.simulate.result.report` tells."""
    world, model, arrivals, load, seed, policy = key
    gpu_s, decision_ms, n = report["gpu_s"], report["decision_ms"], report["n"]
    served, of_all = report["served"], report["all"]
    return Row(
        world=world,
        model=model,
        arrivals=arrivals,
        load=load,
        seed=seed,
        policy=policy,
        n=n,
        attainment=report["attainment"],
        unserved=report["dropped_share"],
        out_of_memory=report["outcomes"]["out_of_memory"] / max(1, n),
        mean_s=served["mean"],
        p50_s=served["p50"],
        p95_s=served["p95"],
        p99_s=served["p99"],
        all_p50_s=of_all["p50"],
        all_p95_s=of_all["p95"],
        all_p99_s=of_all["p99"],
        goodput_per_s=report["goodput_per_s"],
        gpu_s_encode=gpu_s.get(ENCODE, 0.0),
        gpu_s_loop=gpu_s.get(LOOP, 0.0),
        gpu_s_decode=gpu_s.get(DECODE, 0.0),
        gpu_s_other=sum(s for stage, s in gpu_s.items() if stage not in (ENCODE, LOOP, DECODE)),
        busy=report["busy_share"],
        pauses=report["pauses"],
        replacements=report["replacements"],
        decisions=report["decisions"],
        decision_p50_ms=decision_ms.get("p50"),
        decision_p99_ms=decision_ms.get("p99"),
        decision_max_ms=decision_ms.get("max"),
        cpu_s=cpu_s,
        by_kind=tuple(
            kind["attainment"] for kind in sorted(report["by_shape"], key=lambda kind: _pixels(kind["shape"]))
        ),
    )


def bound_row(key: Key, found: Mapping[str, float], cpu_s: float) -> Row:
    """Of what `Cell.bounded` tells."""
    world, model, arrivals, load, seed, policy = key
    return Row(
        world=world,
        model=model,
        arrivals=arrivals,
        load=load,
        seed=seed,
        policy=policy,
        n=int(found["n"]),
        attainment=found["attainment"],
        cpu_s=cpu_s,
    )


class Place(NamedTuple):
    """A cell of the grid, whatever the seed."""

    world: str
    model: str
    arrivals: str
    load: float

    def __str__(self) -> str:
        name = f"{self.model} {self.arrivals} {self.load:g}"
        return f"{self.world}, {name}" if self.world else name


class Table:
    """Rows by place and policy. A figure is the mean over the seeds, None where one of them has none."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[tuple[Place, str], list[Row]] = {}
        for row in rows:
            place = Place(row.world, row.model, row.arrivals, row.load)
            self._rows.setdefault((place, row.policy), []).append(row)
        self.places = tuple(dict.fromkeys(place for place, _ in self._rows))
        self.policies = tuple(dict.fromkeys(policy for _, policy in self._rows))

    def rows(self, place: Place, policy: str) -> Sequence[Row]:
        return self._rows.get((place, policy), ())

    def figure(self, place: Place, policy: str, column: str) -> float | None:
        values = [getattr(row, column) for row in self.rows(place, policy)]
        if not values or None in values:
            return None
        mean: float = sum(values) / len(values)
        return mean

    def attainment(self, place: Place, policy: str) -> float | None:
        """None for what was not simulated, or could not hold what it needs."""
        return None if self.is_too_large(place, policy) else self.figure(place, policy, "attainment")

    def is_too_large(self, place: Place, policy: str) -> bool:
        return any(row.is_too_large for row in self.rows(place, policy))

    def best_b1(self, place: Place) -> str | None:
        """The static degree with the most on time, then the shortest mean; None if none could run."""
        found = [
            (-attainment, self.figure(place, policy, "mean_s") or 0.0, policy)
            for policy in B1
            if (attainment := self.attainment(place, policy)) is not None
        ]
        return min(found)[2] if found else None


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return [_short(each) for each in value] if isinstance(value, tuple) else value


def _pixels(shape: Sequence[int]) -> int:
    width_px, height_px, frames = shape
    return width_px * height_px * frames
