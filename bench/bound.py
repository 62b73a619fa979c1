"""A share of jobs on time that no policy can pass on the same arrivals: clairvoyant, and relaxed.

Cut time into buckets of `bucket_s`, and put jobs into classes of equal kind (model, shape, steps, SLO) that
arrive in one bucket. Let x_c be how many of the n_c jobs of class c are on time, and y_ct the GPU-seconds
that they are given within bucket t. Whatever a policy did, its x and y satisfy

    0 <= x_c <= n_c
    y_ct = 0 outside the buckets from the arrivals' to that of the latest deadline of the class    (window)
    sum_t y_ct >= w_c x_c                                                                          (work)
    sum_c y_ct <= G * bucket_s                                                                     (capacity)

where w_c is the least GPU-seconds of which a job of the class can be on time: every step is run at one of the
ways (degree, batch) that have a cost, so the job's loop is a mix of ways, whose mean seconds a step times the
steps must fit in the SLO less the seconds of the other stages; w_c is the cheapest such mix (an LP with two
constraints: two ways are enough). Where no mix fits, x_c = 0.

Everything left out speaks for the policy: jobs are divisible and may run anywhere, in pieces and in parallel
with themselves within their window, gangs need no node, nothing is paid for loads, handoffs, pauses and
memory, all arrivals are known, late jobs are never served, and windows are rounded outwards to whole buckets.
So max sum_c x_c bounds the jobs on time.

The maximum is not taken from the solver, whose answer is exact to a tolerance only, but proved from its dual:
for any prices u_t >= 0 of a GPU-second, Lagrangian relaxation of the capacity gives

    max sum x  <=  sum_t G * bucket_s * u_t  +  sum_c n_c * max(0, 1 - w_c * min {u_t : t in window of c})

which is evaluated at the solver's prices, and holds however well or badly those were found. It is not valid
for fewer steps than asked for, nor where stages take other times than the costs say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import highspy
import numpy as np
from numpy.typing import NDArray

from bench.arrivals import Arrival
from bench.costs import Costs, ModelCosts
from planner.types import Shape

_BUCKETS_PER_SLO = 3
"""How fine the buckets are against the shortest SLO. Finer is tighter and slower."""

_MAX_BUCKETS = 5000


@dataclass(frozen=True, slots=True)
class Bound:
    """`n_on_time` of `n_jobs`, at most."""

    n_jobs: int
    n_on_time: float
    bucket_s: float

    @property
    def attainment(self) -> float:
        return min(1.0, self.n_on_time / self.n_jobs) if self.n_jobs else 1.0


@dataclass(frozen=True, slots=True)
class _Class:
    """`n` jobs of equal kind that may be worked on in the buckets `first` to `last`."""

    n: int
    work_s: float
    first: int
    last: int


def bound(costs: Costs, arrivals: Sequence[Arrival], n_gpus: int, *, bucket_s: float | None = None) -> Bound:
    """See above. `bucket_s`: by default a third of the shortest SLO, or longer for a long trace."""
    if not arrivals:
        return Bound(0, 0.0, bucket_s or 1.0)
    if bucket_s is None:
        shortest_s = min(arrival.slo_s for arrival in arrivals)
        bucket_s = max(shortest_s / _BUCKETS_PER_SLO, arrivals[-1].at_s / _MAX_BUCKETS)
    classes = _classes(costs, arrivals, bucket_s)
    if not classes:
        return Bound(len(arrivals), 0.0, bucket_s)
    prices = _prices(classes, n_gpus * bucket_s)
    return Bound(len(arrivals), _proved(classes, n_gpus * bucket_s, prices), bucket_s)


def least_work_s(costs: ModelCosts, shape: Shape, steps: int, slo_s: float) -> float | None:
    """GPU-seconds without which no job of the kind is on time; None if none can be."""
    rest_s, rest_work_s = 0.0, 0.0
    for stage in costs.view.stages:
        if stage != costs.view.loop_stage:
            ways = [(s, s / batch) for s, batch in _alone(costs, stage, shape)]
            rest_s += min(seconds for seconds, _ in ways)
            rest_work_s += min(work_s for _, work_s in ways)
    loop = [
        (steps * seconds, steps * seconds * degree / batch)
        for degree in costs.degrees(shape)
        for batch in costs.batches(costs.view.loop_stage, shape, degree)
        for seconds in (costs.stage_s(costs.view.loop_stage, shape, 1, degree=degree, batch=batch),)
    ]
    loop_work_s = _cheapest_mix(loop, slo_s - rest_s)
    return None if loop_work_s is None else rest_work_s + loop_work_s


def _alone(costs: ModelCosts, stage: str, shape: Shape) -> Iterable[tuple[float, int]]:
    for batch in costs.batches(stage, shape):
        yield costs.stage_s(stage, shape, 1, batch=batch), batch


def _cheapest_mix(ways: Sequence[tuple[float, float]], within_s: float) -> float | None:
    """The least work of a mix of `ways` (seconds, work) that takes `within_s` or less on average."""
    # rounding must not deny a policy a job that ends exactly at its deadline
    within_s += 1e-6
    works = [work_s for seconds, work_s in ways if seconds <= within_s]
    if not works:
        return None
    for one, two in combinations(ways, 2):
        (fast_s, fast_work_s), (slow_s, slow_work_s) = sorted((one, two))
        if fast_s <= within_s < slow_s:
            slow_part = (within_s - fast_s) / (slow_s - fast_s)
            works.append(slow_part * slow_work_s + (1 - slow_part) * fast_work_s)
    return min(works)


def _classes(costs: Costs, arrivals: Sequence[Arrival], bucket_s: float) -> list[_Class]:
    """Those that can be on time at all."""
    times_s: dict[tuple[str, Shape, int, float, int], list[float]] = {}
    for a in arrivals:
        times_s.setdefault((a.model, a.shape, a.steps, a.slo_s, int(a.at_s // bucket_s)), []).append(a.at_s)
    works_s: dict[tuple[str, Shape, int, float], float | None] = {}
    classes = []
    for (model, shape, steps, slo_s, first), of_class_s in times_s.items():
        kind = (model, shape, steps, slo_s)
        if kind not in works_s:
            works_s[kind] = least_work_s(costs.models[model], shape, steps, slo_s)
        work_s = works_s[kind]
        if work_s is not None:
            last = math.floor((max(of_class_s) + slo_s) / bucket_s + 1e-9)
            classes.append(_Class(len(of_class_s), work_s, first, last))
    return classes


def _prices(classes: Sequence[_Class], capacity_s: float) -> NDArray[np.float64]:
    """What a GPU-second of each bucket is worth, in jobs on time: the capacity's duals."""
    n, n_buckets = len(classes), max(c.last for c in classes) + 1
    lengths = np.array([c.last - c.first + 1 for c in classes])
    n_flows = int(lengths.sum())
    owner = np.repeat(np.arange(n), lengths)
    bucket = np.concatenate([np.arange(c.first, c.last + 1) for c in classes])
    flows = n + np.arange(n_flows)
    by_bucket = np.argsort(bucket, kind="stable")
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = n + n_flows, n_buckets + n
    model.sense_ = highspy.ObjSense.kMaximize
    # in units of the capacity of a bucket, so that figures are near 1
    work = np.array([c.work_s for c in classes]) / capacity_s
    model.col_cost_ = np.concatenate([np.ones(n), np.zeros(n_flows)])
    model.col_lower_ = np.zeros(n + n_flows)
    model.col_upper_ = np.concatenate([[float(c.n) for c in classes], np.full(n_flows, highspy.kHighsInf)])
    model.row_lower_ = np.full(n_buckets + n, -highspy.kHighsInf)
    model.row_upper_ = np.concatenate([np.ones(n_buckets), np.zeros(n)])
    index, value = [flows[by_bucket]], [np.ones(n_flows)]
    starts = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=n_buckets))])
    # work of class c: w_c x_c - sum of its flows <= 0
    row_of = np.concatenate([np.arange(n), owner])
    order = np.argsort(row_of, kind="stable")
    index.append(np.concatenate([np.arange(n), flows])[order])
    value.append(np.concatenate([work, np.full(n_flows, -1.0)])[order])
    starts = np.concatenate([starts, starts[-1] + np.cumsum(np.bincount(row_of, minlength=n))])
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = starts
    model.a_matrix_.index_ = np.concatenate(index)
    model.a_matrix_.value_ = np.concatenate(value)
    solver = highspy.Highs()  # type: ignore[no-untyped-call] # its stub leaves the constructor untyped
    for option, setting in (
        ("output_flag", False),
        ("solver", "ipm"),
        ("run_crossover", "off"),
        ("threads", 1),
    ):
        solver.setOptionValue(option, setting)
    solver.passModel(model)
    solver.run()
    duals: NDArray[np.float64] = np.abs(np.array(solver.getSolution().row_dual[:n_buckets]))
    if duals.size != n_buckets or not np.isfinite(duals).all():
        # no prices: every job that can be on time at all may be
        return np.zeros(n_buckets)
    return duals / capacity_s


def _proved(classes: Sequence[_Class], capacity_s: float, prices: NDArray[np.float64]) -> float:
    """The Lagrangian bound at `prices` of each bucket's GPU-seconds."""
    served = sum(c.n * max(0.0, 1 - c.work_s * float(prices[c.first : c.last + 1].min())) for c in classes)
    return float(capacity_s * prices.sum() + served)
