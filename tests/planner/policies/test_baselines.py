"""B1 to B6 on instances that are worked by hand: who runs, where, at which degree.

Costs are those of `tests.planner.gpus`. A small job's best degree is 2, a large one's 4. An even mix of both
has 1 GPU-second of encode, 12 + 80 of denoise and 1 of decode.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from planner import JobView, Observation, PlannerConfig, Reason, Run, Shape, WorkerView, decide, initial_state
from planner.measurements import Measurement, Measurements
from planner.policies import POLICIES
from planner.policies.even_mix import apportioned, grouped
from planner.profile import Profile
from planner.types import Effect, Expected, Load
from tests.bench import small_costs
from tests.planner.gpus import COSTS, LARGE, PROFILE, SMALL, STEPS, job, node, starts
from tests.planner.policies import small
from tests.planner.values import MODELS

LATE = 500.0
BOTH = (Expected("tiny", SMALL, STEPS), Expected("tiny", LARGE, STEPS))


def said(
    policy: str, workers: Sequence[WorkerView], jobs: Sequence[JobView], *, degree: int = 1
) -> list[Effect]:
    config = PlannerConfig(policy=policy, static_degree=degree, expected=BOTH)
    seen = Observation(0.0, tuple(jobs), tuple(workers), MODELS)
    _, effects = decide(initial_state(config, PROFILE), seen)
    return list(effects)


def asked(name: str, shape: Shape = SMALL, arrived_s: float = 0.0, **more: object) -> JobView:
    return job(name, LATE, shape, arrived_s=arrived_s, **more)


def test_b1_is_called_fcfs_too() -> None:
    assert POLICIES["fcfs"] == POLICIES["b1"]
    workers, jobs = node("n0", 4), [asked("a", LARGE, 1.0), asked("b", SMALL, 2.0)]
    assert starts(said("b1", workers, jobs, degree=2)) == {"a": ("n0w0", "n0w1"), "b": ("n0w2", "n0w3")}


def test_b1_gives_the_degree_that_there_is_when_a_node_is_narrower() -> None:
    assert starts(said("b1", node("n0", 2), [asked("a")], degree=4)) == {"a": ("n0w0", "n0w1")}


def test_b2_has_a_queue_for_each_degree() -> None:
    """Of eight workers 4-groups are to have 81 / 94, which is 6.9, and 2-groups 1.1. One group of each leaves
    two workers, a second 2-group. The second large job waits though four workers are idle."""
    jobs = [asked("l1", LARGE, 1.0), asked("l2", LARGE, 2.0), asked("s1", SMALL, 3.0)]
    effects = said("b2", node("n0", 8), jobs)
    assert starts(effects) == {"l1": ("n0w0", "n0w1", "n0w2", "n0w3"), "s1": ("n0w4", "n0w5")}
    assert all(effect.reason is Reason.FIRST_COME for effect in effects if isinstance(effect, Run))


def test_b2_is_first_come_first_served_in_each_bucket() -> None:
    jobs = [asked(f"s{n}", SMALL, 10.0 - n) for n in range(3)]
    assert list(starts(said("b2", node("n0", 8), jobs))) == ["s2", "s1"]


def test_b2_on_one_worker_has_one_bucket() -> None:
    assert starts(said("b2", node("n0", 1), [asked("l1", LARGE)])) == {"l1": ("n0w0",)}


def test_b3_takes_its_best_degree_or_what_is_free() -> None:
    """4 where four are idle, then 4 again, then 2 of the 3 that a third node has."""
    workers = [*node("n0", 4), *node("n1", 4), *node("n2", 3)]
    jobs = [asked(f"l{n}", LARGE, float(n)) for n in range(3)]
    assert [len(workers) for workers in starts(said("b3", workers, jobs)).values()] == [4, 4, 2]
    assert starts(said("b3", node("n0", 4), [asked("s")])) == {"s": ("n0w0", "n0w1")}


def test_b3_goes_by_arrival_and_b4_by_what_remains() -> None:
    jobs = [asked("large", LARGE, 1.0), asked("small", SMALL, 2.0)]
    assert list(starts(said("b3", node("n0", 1), jobs))) == ["large"]
    assert list(starts(said("b4", node("n0", 1), jobs))) == ["small"]


def test_b4_counts_the_steps_that_are_left() -> None:
    """Two steps, 2 s each at its best degree, and the decode: 4.5 s. A new small one takes 7 s."""
    nearly = asked("nearly", LARGE, 2.0, pending=("denoise", "decode"), steps_done=8)
    assert list(starts(said("b4", node("n0", 1), [asked("small", SMALL, 1.0), nearly]))) == ["nearly"]


def test_b5_splits_by_hand_and_into_buckets() -> None:
    """Of eight workers D has 92 / 94, so six, C and E one each; of D's six one 4-group and one 2-group."""
    jobs = [
        asked("new1", SMALL, 1.0),
        asked("new2", SMALL, 2.0),
        asked("l1", LARGE, 3.0, pending=("denoise", "decode")),
        asked("l2", LARGE, 4.0, pending=("denoise", "decode")),
        asked("s1", SMALL, 5.0, pending=("denoise", "decode")),
        asked("c1", SMALL, 6.0, pending=("decode",)),
    ]
    effects = said("b5", node("n0", 8), jobs)
    assert starts(effects) == {
        "new1": ("n0w7",),
        "l1": ("n0w0", "n0w1", "n0w2", "n0w3"),
        "s1": ("n0w4", "n0w5"),
        "c1": ("n0w6",),
    }
    stages = {run.jobs[0]: run.stages for run in effects if isinstance(run, Run)}
    assert stages == {"new1": ("encode",), "l1": ("denoise",), "s1": ("denoise",), "c1": ("decode",)}


def test_b6_splits_by_hand_with_dynamic_degrees_and_the_shortest_first() -> None:
    jobs = [
        asked("l1", LARGE, 1.0, pending=("denoise", "decode")),
        asked("s1", SMALL, 2.0, pending=("denoise", "decode")),
        asked("l2", LARGE, 3.0, pending=("denoise", "decode")),
    ]
    effects = said("b6", node("n0", 8), jobs)
    assert starts(effects) == {"s1": ("n0w0", "n0w1"), "l1": ("n0w2", "n0w3", "n0w4", "n0w5")}
    assert all(effect.reason is Reason.SHORTEST_FIRST for effect in effects if isinstance(effect, Run))


@pytest.mark.parametrize(("n", "holds"), [(1, ["EDC"]), (2, ["D", "EC"]), (3, ["D", "C", "E"])])
def test_few_workers_are_split_as_far_as_they_go(n: int, holds: list[str]) -> None:
    planner = small.Asked("b6", small_costs.small_costs())
    planner.says(small.node("n0", n, "EDC"))
    assert list(planner.holds.values()) == holds


def test_a_split_is_loaded_apart_and_a_whole_pipeline_together() -> None:
    cold = small.node("n0", 3)
    split = small.Asked("b5", small_costs.small_costs())
    assert small.loads(split.says(cold)) == {
        "n0w0": ("denoise",),
        "n0w1": ("decode",),
        "n0w2": ("encode",),
    }
    whole = small.Asked("b3", small_costs.small_costs())
    assert small.loads(whole.says(cold)) == dict.fromkeys(("n0w0", "n0w1", "n0w2"), small_costs.STAGES)


def test_roles_stay_when_a_worker_is_gone_for_a_while() -> None:
    planner = small.Asked("b5", small_costs.small_costs())
    workers = small.node("n0", 4, "EDC")
    planner.says(workers)
    before = planner.holds
    planner.says(workers[1:], now_s=1.0)
    planner.says(workers, now_s=2.0)
    assert planner.holds == before


def test_a_whole_pipeline_is_sent_to_workers_without_the_memory_for_it() -> None:
    """Weights 14 and a peak of 6 in 18: what such a server does, and the job fails."""
    planner = small.Asked("b1", small_costs.small_costs(memory_bytes=18))
    effects = planner.says(small.node("n0", 1, "EDC", 18), [small.job("a", small_costs.LARGE)])
    assert small.runs(effects) == {"a": ("EDC", ("n0w0",))}


def test_a_gang_is_of_workers_that_hold_other_things_besides() -> None:
    """n0w0 holds everything, n0w1 only the loop that it is there for."""
    planner = small.Asked("b6", small_costs.small_costs())
    workers = small.node("n0", 4, "EDC")
    planner.says(workers)
    mixed = [workers[0], small.worker("n0w1", "D"), *workers[2:]]
    effects = planner.says(mixed, [small.job("a", pending=("denoise", "decode"))], 1.0)
    assert small.runs(effects) == {"a": ("D", ("n0w0", "n0w1"))}


def test_half_of_the_workers_go_on_serving_while_a_second_model_loads() -> None:
    workers = small.node("n0", 4, "ED")
    effects = small.Asked("b1", small_costs.small_costs()).says(workers)
    assert [effect.worker for effect in effects if isinstance(effect, Load)] == ["n0w0", "n0w1"]


def test_without_expectations_it_goes_by_all_that_was_measured() -> None:
    """The same mix, since the profile has these two shapes, at 20 steps instead of 10."""
    state = initial_state(PlannerConfig(policy="b2"), PROFILE)
    jobs = (asked("l1", LARGE, 1.0), asked("s1", SMALL, 3.0))
    _, effects = decide(state, Observation(0.0, jobs, tuple(node("n0", 8)), MODELS))
    assert {name: len(workers) for name, workers in starts(effects).items()} == {"l1": 4, "s1": 2}


def test_an_empty_profile_serves_all_the_same() -> None:
    for policy in ("b1", "b2", "b3", "b4", "b5", "b6"):
        seen = Observation(0.0, (asked("a"),), tuple(node("n0", 8)), MODELS)
        _, effects = decide(initial_state(PlannerConfig(policy=policy), Profile()), seen)
        assert len(starts(effects)["a"]) == 1


def test_shares_are_apportioned() -> None:
    assert apportioned(8, [92.0, 1.0, 1.0]) == [6, 1, 1]
    assert apportioned(2, [1.0, 1.0, 5.0]) == [1, 1, 0]
    assert apportioned(10, [0.0, 0.0]) == [5, 5]


def test_groups_are_apportioned_by_their_work() -> None:
    assert grouped(8, {2: 13.0, 4: 81.0}) == {2: 2, 4: 1}
    assert grouped(128, {1: 10.0, 2: 20.0, 8: 70.0}) == {1: 14, 2: 13, 8: 11}
    assert grouped(3, {2: 1.0, 4: 9.0}) == {2: 1}
    assert grouped(0, {1: 1.0}) == {}


def test_a_worker_that_is_no_whole_group_has_nothing_to_do() -> None:
    measured = [m for m in COSTS.measured().measured if m.shape == LARGE]
    profile = Profile().with_measured(Measurements(device="gpu", model="tiny", measured=tuple(measured)))
    assert all(isinstance(m, Measurement) for m in measured)
    config = PlannerConfig(policy="b2", expected=BOTH[1:])
    jobs = tuple(asked(f"l{n}", LARGE, float(n)) for n in range(3))
    _, effects = decide(initial_state(config, profile), Observation(0.0, jobs, tuple(node("n0", 6)), MODELS))
    assert list(starts(effects)) == ["l0"]
