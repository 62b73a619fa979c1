"""The bound by hand, and that no policy passes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.arrivals import Arrival
from bench.bound import bound, least_work_s
from bench.simulate import Fleet, FleetConfig, simulate
from planner.types import Shape
from tests.bench.simple_policies import Earliest, Restless
from tests.bench.small_costs import LARGE, SMALL, STEPS, asked, small_costs

COSTS = small_costs()
TABLE = COSTS.models["small"]


@pytest.mark.parametrize(
    ("slo_s", "work_s"),
    [
        # one worker: encode 1, loop 4 x 2, decode 2
        (20.0, 11.0),
        (11.0, 11.0),
        # degree 2: loop 4 x 1.25 on two
        (8.0, 3.0 + 10.0),
        # 9.5 leaves 6.5 s for the loop: half of the steps at degree 1 (2 s) and half at 2 (1.25 s)
        (9.5, 3.0 + 0.5 * 8.0 + 0.5 * 10.0),
        (7.9, None),
    ],
)
def test_the_least_work_is_the_cheapest_mix_of_degrees_in_time(slo_s: float, work_s: float | None) -> None:
    assert least_work_s(TABLE, SMALL, STEPS, slo_s) == (None if work_s is None else pytest.approx(work_s))


def test_a_batch_shares_its_work() -> None:
    """Two jobs in 1.5 times the seconds: three quarters of the work for each, at 16.5 s."""
    shared = small_costs(batches=True).models["small"]
    assert least_work_s(shared, SMALL, STEPS, 20.0) == pytest.approx(0.75 * 11.0)


def test_jobs_beyond_the_capacity_of_their_window_cannot_be_on_time() -> None:
    """Six jobs of 11 GPU-seconds at once, due in 21.9 s, on two workers: 22 s of two are four jobs."""
    arrivals = [asked(0.0, slo_s=21.9)] * 6
    assert bound(COSTS, arrivals, 2, bucket_s=1.0).n_on_time == pytest.approx(4.0)
    assert bound(COSTS, arrivals, 4, bucket_s=1.0).attainment == 1.0


def test_a_later_window_has_capacity_of_its_own() -> None:
    arrivals = [*[asked(0.0, slo_s=10.9)] * 3, *[asked(50.0, slo_s=10.9)] * 3]
    hurried_s = least_work_s(TABLE, SMALL, STEPS, 10.9) or 0.0
    assert bound(COSTS, arrivals, 1, bucket_s=1.0).n_on_time == pytest.approx(2 * 11.0 / hurried_s)


def test_the_smaller_jobs_are_taken_for_the_larger() -> None:
    """35 GPU-seconds or 11: in 40 s of one worker the three small ones are worth more."""
    arrivals = [asked(0.0, LARGE, 39.9), *[asked(0.0, SMALL, 39.9)] * 3]
    assert bound(COSTS, arrivals, 1, bucket_s=1.0).n_on_time == pytest.approx(3 + 7 / 35)


def test_what_can_never_be_on_time_does_not_count() -> None:
    assert bound(COSTS, [asked(0.0, slo_s=5.0), asked(0.0)], 2).n_on_time == pytest.approx(1.0)
    assert bound(COSTS, [asked(0.0, slo_s=5.0)], 2).n_on_time == 0.0
    assert bound(COSTS, [], 2).attainment == 1.0


@settings(max_examples=150, deadline=None)
@given(
    jobs=st.lists(
        st.tuples(st.floats(0, 40), st.sampled_from((SMALL, LARGE)), st.floats(5, 60)),
        min_size=1,
        max_size=25,
    ),
    n_gpus=st.sampled_from((2, 4)),
    restless=st.booleans(),
    bucket_s=st.sampled_from((None, 1.0, 7.0)),
)
def test_no_policy_passes_the_bound(
    jobs: list[tuple[float, Shape, float]], n_gpus: int, restless: bool, bucket_s: float | None
) -> None:
    arrivals: list[Arrival] = sorted((asked(*job) for job in jobs), key=lambda arrival: arrival.at_s)
    config = FleetConfig(n_gpus=n_gpus, gpus_per_node=2, drop_if_late=True)
    fleet = Fleet(COSTS, config, arrivals)
    simulate(fleet, (Restless if restless else Earliest)(COSTS), None)
    n_on_time = sum(job.is_on_time for job in fleet.book.jobs)
    assert n_on_time <= bound(COSTS, arrivals, n_gpus, bucket_s=bucket_s).n_on_time + 1e-6
