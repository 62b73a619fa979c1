"""The policies beside each other on one instance each."""

from __future__ import annotations

from planner import (
    JobView,
    ModelView,
    Observation,
    PlannerConfig,
    Reason,
    Run,
    WorkerView,
    decide,
    initial_state,
)
from planner.policies import POLICIES
from planner.types import Effect, Reject
from tests.planner.gpus import LARGE, PROFILE, busy, job, node, running, starts
from tests.planner.values import LOOP, MODELS, REST

LATE = 500.0


def said(
    policy: str, workers: list[WorkerView], jobs: list[JobView], *, now_s: float = 0.0, degree: int = 1
) -> list[Effect]:
    models: dict[str, ModelView] = MODELS
    config = PlannerConfig(policy=policy, static_degree=degree)
    _, effects = decide(
        initial_state(config, PROFILE), Observation(now_s, tuple(jobs), tuple(workers), models)
    )
    return list(effects)


def test_the_table() -> None:
    assert set(POLICIES) >= {"triptych", "fair", "fcfs"}


def test_fcfs_serves_in_order_of_arrival() -> None:
    jobs = [job("second", 5.0, arrived_s=2.0), job("first", LATE, arrived_s=1.0)]
    (run,) = said("fcfs", node("n0", 1), jobs)
    assert isinstance(run, Run)
    assert (run.jobs, run.reason, run.degree) == (("first",), Reason.FIRST_COME, 1)
    assert run.stages == ("encode", "denoise", "decode")


def test_fcfs_has_one_degree() -> None:
    jobs = [job("a", 1.0, LARGE, arrived_s=1.0), job("b", LATE, arrived_s=2.0)]
    assert starts(said("fcfs", node("n0", 4), jobs, degree=2)) == {
        "a": ("n0w0", "n0w1"),
        "b": ("n0w2", "n0w3"),
    }
    assert starts(said("fcfs", node("n0", 4), jobs)) == {"a": ("n0w0",), "b": ("n0w1",)}


def test_nobody_overtakes_in_fcfs() -> None:
    went = job("b", LATE, arrived_s=2.0, pending=("decode",))
    jobs = [job("a", LATE, arrived_s=1.0), went]
    assert starts(said("fcfs", node("n0", 1), jobs, degree=2)) == {"a": ("n0w0",)}
    apart = [*busy(node("n0", 2)[:1], running("x", LATE)), node("n0", 2)[1], *node("n1", 1)]
    assert starts(said("fcfs", apart, [running("x", LATE), *jobs], degree=2)) == {}


def test_fcfs_drops_and_pauses_nothing() -> None:
    long = running("long", LATE)
    workers = busy(node("n0", 1), long, steps_done=2)
    assert said("fcfs", workers, [long, job("a", 1.0, drop_if_late=True)]) == []
    assert said("triptych", workers, [long, job("a", 14.0)]) != []


def test_fair_serves_by_deadline_at_the_smallest_degree_that_meets_it() -> None:
    jobs = [job("second", 100.0, arrived_s=1.0), job("first", 41.0, LARGE, arrived_s=2.0)]
    assert starts(said("fair", node("n0", 2), jobs)) == {"first": ("n0w0", "n0w1")}
    assert starts(said("fair", node("n0", 4), jobs)) == {"first": ("n0w0", "n0w1"), "second": ("n0w2",)}


def test_fair_drops_what_is_hopeless_and_only_where_that_was_agreed() -> None:
    (effect,) = said("fair", node("n0", 4), [job("a", 1.0, drop_if_late=True)])
    assert isinstance(effect, Reject)
    assert starts(said("fair", node("n0", 4), [job("a", 1.0)])) == {"a": ("n0w0",)}


def test_fair_neither_pauses_nor_grows_nor_batches() -> None:
    long = running("long", LATE, LARGE)
    workers = [*busy(node("n0", 1), long, steps_done=2), *node("n1", 1)]
    keyed = [job("a", 30.0, batch_key="k"), job("b", 31.0, batch_key="k")]
    assert starts(said("fair", workers, [long, *keyed])) == {"a": ("n1w0",)}
    assert starts(said("fair", node("n0", 4), [job("a", LATE, LARGE)])) == {"a": ("n0w0",)}


def test_fcfs_and_fair_leave_the_configuration_as_it_is() -> None:
    for policy in ("fcfs", "fair"):
        config = PlannerConfig(policy=policy)
        state, _ = decide(initial_state(config, PROFILE), Observation(0.0, (), tuple(node("n0", 1)), MODELS))
        assert state.config == config


def test_a_stage_that_is_nowhere_holds_up_nobody_in_fcfs() -> None:
    workers = [WorkerView("w0", "n0", REST, device="gpu", failed=LOOP)]
    jobs = [job("a", LATE, arrived_s=1.0, pending=("denoise", "decode")), job("b", LATE, arrived_s=2.0)]
    assert starts(said("fcfs", workers, jobs)) == {"b": ("w0",)}
