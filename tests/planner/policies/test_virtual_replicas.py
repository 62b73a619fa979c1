"""TridentServe's Orchestrator on instances that are worked by hand. Costs: `tests.planner.policies.small`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from bench.costs import Costs
from planner import Observation, Shape
from planner.measurements import Measurements
from planner.policies.even_mix import Work, work_of
from planner.policies.virtual_replicas import EVERYTHING, Plan, imbalance, optimal_type, planned
from planner.profile import Profile
from planner.types import Expected, ModelView
from tests.bench.small_costs import LARGE, SMALL, STAGES, STEPS, small_costs
from tests.planner.policies.small import EVEN, Asked, job, node

COSTS = small_costs()
PROFILE = COSTS.profile()
VIEW = COSTS.views["small"]


def seen(n_nodes: int, per_node: int, memory_bytes: int | None) -> Observation:
    workers = [w for i in range(n_nodes) for w in node(f"n{i}", per_node, memory_bytes=memory_bytes)]
    return Observation(0.0, (), tuple(workers), COSTS.views)


def mix(observation: Observation, rates: Mapping[Shape, float]) -> list[tuple[Work, float]]:
    made = []
    for shape, rate in rates.items():
        work = work_of(Expected("small", shape, STEPS), observation, PROFILE)
        assert work is not None
        made.append((work, rate))
    return made


def counted(plan: Plan) -> dict[str, int]:
    return dict(Counter(letters for _, letters in plan.roles.values()))


def with_peaks(costs: Costs, peaks: Mapping[str, int]) -> tuple[ModelView, Profile]:
    model = costs.models["small"]
    measured = tuple(replace(m, peak_bytes=peaks[m.stage] // m.degree) for m in model.measurements.measured)
    made: Measurements = replace(model.measurements, measured=measured)
    return model.view, Profile().with_measured(made)


@pytest.mark.parametrize(
    ("shape", "memory_bytes", "number"),
    [
        # weights 4 + 8 + 2 = 14 and a peak of 1
        (SMALL, 15, 0),
        (SMALL, None, 0),
        # 14 + 6; then DC has 10 + 6, D + E 12 + 6, and apart D has 8 + 6 / 2, E 4 + 6, C 2 + 6
        (LARGE, 20, 0),
        (LARGE, 19, 1),
        (LARGE, 16, 1),
        (LARGE, 15, 3),
        (LARGE, 11, 3),
        (LARGE, 10, None),
    ],
)
def test_a_request_is_of_the_first_type_that_has_the_memory(
    shape: Shape, memory_bytes: int | None, number: int | None
) -> None:
    assert optimal_type(VIEW, shape, PROFILE, "test", memory_bytes) == number


def test_where_only_the_decode_is_large_the_type_is_v2() -> None:
    """EDC has 14 + 8, DC 10 + 8, ED 12 + 1 and C 2 + 8."""
    view, profile = with_peaks(COSTS, dict(zip(STAGES, (1, 1, 8), strict=True)))
    assert optimal_type(view, SMALL, profile, "test", 14) == 2


def test_with_room_everywhere_there_is_one_type() -> None:
    observation = seen(2, 8, 20)
    plan = planned(observation, PROFILE, mix(observation, {SMALL: 1.0, LARGE: 1.0}), None)
    assert plan.is_one_type
    assert set(plan.roles.values()) == {EVERYTHING}


def test_workers_are_shared_by_requests_and_each_types_so_that_the_rates_match() -> None:
    """Memory 16: small ones are V0, large ones V1. Half of 16 workers each, whatever they take; of V1's
    eight, DC has 32 + 2 GPU-seconds a request and E 1, so 7.8 and .2. Primaries come first and fill nodes."""
    observation = seen(2, 8, 16)
    plan = planned(observation, PROFILE, mix(observation, {SMALL: 1.0, LARGE: 1.0}), None)
    assert counted(plan) == {"EDC": 8, "DC": 7, "E": 1}
    assert [plan.roles[f"n0w{place}"][1] for place in range(8)] == ["EDC"] * 8
    assert [plan.roles[f"n1w{place}"][1] for place in range(8)] == ["DC"] * 7 + ["E"]


def test_shares_are_rounded_down_and_the_rest_goes_where_most_was_lost() -> None:
    """Of ten workers a third is 3.33 and the other two 6.67: 3 and 6, and one more for the latter."""
    observation = seen(1, 10, 16)
    plan = planned(observation, PROFILE, mix(observation, {SMALL: 1.0, LARGE: 2.0}), None)
    assert counted(plan) == {"EDC": 3, "DC": 6, "E": 1}


def test_three_apart() -> None:
    """Memory 15: large ones are V3, with 32, 1 and 2 GPU-seconds: of eight workers 6, 1 and 1."""
    observation = seen(1, 8, 15)
    plan = planned(observation, PROFILE, mix(observation, {LARGE: 1.0}), None)
    assert counted(plan) == {"D": 6, "E": 1, "C": 1}


def test_a_type_has_a_worker_of_each_kind_or_none() -> None:
    """Two workers are too few for V0 beside V1: the one asked for more has them."""
    observation = seen(1, 2, 16)
    plan = planned(observation, PROFILE, mix(observation, {SMALL: 1.0, LARGE: 3.0}), None)
    assert counted(plan) == {"DC": 1, "E": 1}


def test_a_new_plan_keeps_the_roles_that_are_still_there() -> None:
    observation = seen(2, 8, 16)
    before = planned(observation, PROFILE, mix(observation, {SMALL: 1.0, LARGE: 1.0}), None)
    after = planned(observation, PROFILE, mix(observation, {SMALL: 1.0, LARGE: 3.0}), before)
    assert counted(after) == {"EDC": 4, "DC": 11, "E": 1}
    assert after.roles["n1w7"] == before.roles["n1w7"]
    assert [after.roles[f"n0w{place}"][1] for place in range(8)] == ["EDC"] * 4 + ["DC"] * 4


def test_the_imbalance_is_the_fastest_over_the_slowest() -> None:
    """EDC: 8 workers for 13 GPU-seconds, DC: 7 for 34, E: 1 for 1. So 1 over .206."""
    observation = seen(2, 8, 16)
    asked = mix(observation, {SMALL: 1.0, LARGE: 1.0})
    plan = planned(observation, PROFILE, asked, None)
    assert imbalance(plan, asked, observation, PROFILE) == pytest.approx(1 / (7 / 34))


def test_it_is_planned_anew_once_the_fastest_runs_half_as_fast_again() -> None:
    """Expected is an even mix. Then one small one comes for three large ones: 4 of 16 workers are for it."""
    planner = Asked("trident", small_costs(memory_bytes=16))
    workers = [*node("n0", 8, memory_bytes=16), *node("n1", 8, memory_bytes=16)]
    planner.says(workers)
    assert Counter(planner.holds.values()) == {"EDC": 8, "DC": 7, "E": 1}
    jobs = [job(f"s{n}", arrived_s=5.0) for n in range(10)]
    jobs += [job(f"l{n}", LARGE, arrived_s=5.0) for n in range(30)]
    planner.says(workers, jobs, now_s=5.0)
    planner.says(workers, jobs, now_s=9.0)
    assert Counter(planner.holds.values()) == {"EDC": 8, "DC": 7, "E": 1}
    planner.says(workers, jobs, now_s=10.0)
    assert Counter(planner.holds.values()) == {"EDC": 4, "DC": 11, "E": 1}


def test_a_request_that_is_open_has_its_workers_however_rare_it_is() -> None:
    """Only small ones are expected, which are V0. A large one is one of 36 then, and has an E and a DC."""
    planner = Asked("trident", small_costs(memory_bytes=16), expected=EVEN[:1])
    workers = node("n0", 8, memory_bytes=16)
    planner.says(workers)
    assert Counter(planner.holds.values()) == {"EDC": 8}
    rare = [job("l", LARGE, arrived_s=1.0, pending=("decode",))]
    rare += [job(f"s{n}", pending=("decode",), arrived_s=1.0) for n in range(35)]
    planner.says(workers, rare, 1.0)
    assert Counter(planner.holds.values()) == {"EDC": 8}
    planner.says(workers, rare, 10.0)
    assert Counter(planner.holds.values()) == {"EDC": 6, "DC": 1, "E": 1}


def test_what_fits_nowhere_is_planned_for_all_the_same() -> None:
    observation = seen(1, 8, 10)
    assert counted(planned(observation, PROFILE, mix(observation, {LARGE: 1.0}), None)) == {
        "D": 6,
        "E": 1,
        "C": 1,
    }


def test_the_even_mix_is_what_is_expected_at_first() -> None:
    planner = Asked("trident", small_costs(memory_bytes=16), expected=EVEN[1:])
    planner.says(node("n0", 4, memory_bytes=16))
    assert Counter(planner.holds.values()) == {"DC": 3, "E": 1}
