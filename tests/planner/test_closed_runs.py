"""What holds in every closed run: random jobs on nodes with gangs, pauses, batches and refusals.

`tests.planner.cluster` itself asserts that each effect can be carried out: no worker is in two tasks, no job
in two, a gang is of one node, stages are resident and in order, a loop makes a step between two pauses.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import (
    Effect,
    JobView,
    Observation,
    Pause,
    PlannerConfig,
    Profile,
    Reason,
    Run,
    decide,
    initial_state,
)
from planner.lateness import OVERDUE
from planner.types import Parts, Reject
from tests.planner.cluster import Cluster, Costs
from tests.planner.gpus import COSTS, LARGE, SMALL, STEPS
from tests.planner.values import TINY

SHAPES = (SMALL, LARGE)
CONFIG = PlannerConfig(min_samples=10**9)
WITHOUT = [
    {name: False} for name in ("rejects", "degrades", "batches", "joins", "pauses", "grows", "reserves")
]

jobs = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.integers(0, 200),
        st.sampled_from(SHAPES),
        st.sampled_from(("", "k", "l")),
        st.booleans(),
        st.booleans(),
        st.sampled_from((None, 4)),
    ),
    min_size=1,
    max_size=12,
)


def submitted(cluster: Cluster, drawn: list[tuple[int, int, object, str, bool, bool, int | None]]) -> int:
    for place, (at_s, slack_s, shape, key, drop, asked, least) in enumerate(drawn):
        cluster.submit(
            JobView(
                f"j{place:05}",
                "tiny",
                shape,  # type: ignore[arg-type]
                STEPS,
                TINY.stages,
                float(at_s),
                float(at_s + slack_s),
                batch_key=key,
                drop_if_late=drop,
                deadline_asked=asked,
                least_steps=least,
            )
        )
    return len(drawn)


def check_ends(cluster: Cluster, n: int) -> None:
    assert not cluster.jobs
    assert not cluster.ended_s.keys() & cluster.rejected.keys()
    assert len(cluster.ended_s) + len(cluster.rejected) == n
    refusals = Counter(effect.job for effect in cluster.of_kind(Reject) if isinstance(effect, Reject))
    assert all(count == 1 for count in refusals.values())


def check_replay(cluster: Cluster, config: PlannerConfig) -> None:
    profile = Profile().with_measured(COSTS.measured())
    state = initial_state(config, profile)
    for seen, effects in cluster.calls:
        shuffled = replace(seen, jobs=seen.jobs[::-1], workers=seen.workers[::-1])
        assert decide(state, shuffled)[1] == effects
        state, again = decide(state, seen)
        assert again == effects


@settings(max_examples=25, deadline=None)
@given(
    drawn=jobs,
    nodes=st.sampled_from(((1, 1), (1, 2), (2, 4))),
    degrees=st.sampled_from(((1,), (1, 2), (1, 2, 4))),
    policy=st.sampled_from(("triptych", "triptych", "fair", "fcfs")),
    without=st.sampled_from([{}, *WITHOUT]),
    static_degree=st.sampled_from((1, 2)),
)
def test_every_job_ends_once_and_the_run_can_be_replayed(
    drawn: list[tuple[int, int, object, str, bool, bool, int | None]],
    nodes: tuple[int, int],
    degrees: tuple[int, ...],
    policy: str,
    without: dict[str, bool],
    static_degree: int,
) -> None:
    config = replace(CONFIG, policy=policy, parts=Parts(**without), static_degree=static_degree)
    cluster = Cluster({"tiny": COSTS}, config, *nodes, degrees=degrees)
    n = submitted(cluster, drawn)
    cluster.run()
    check_ends(cluster, n)
    check_replay(cluster, config)


@settings(max_examples=20, deadline=None)
@given(drawn=jobs, error=st.sampled_from((0.8, 1.2)))
def test_a_wrong_profile_loses_no_job(
    drawn: list[tuple[int, int, object, str, bool, bool, int | None]], error: float
) -> None:
    cluster = Cluster({"tiny": COSTS}, CONFIG, 1, 4, degrees=(1, 2, 4), profile_error=error)
    n = submitted(cluster, drawn)
    cluster.run()
    check_ends(cluster, n)


@settings(max_examples=20, deadline=None)
@given(drawn=jobs, n_workers=st.integers(1, 3))
def test_a_later_deadline_never_starts_before_an_earlier_one_of_the_same_size(
    drawn: list[tuple[int, int, object, str, bool, bool, int | None]], n_workers: int
) -> None:
    """As long as the earlier one can still be on time, on workers of one degree."""
    cluster = Cluster({"tiny": COSTS}, CONFIG, 1, n_workers, degrees=(1,))
    alone_s = {SMALL: 11.0, LARGE: 81.0}

    def check(seen: Observation, effects: tuple[Effect, ...]) -> None:
        gone = {job for effect in effects if isinstance(effect, Run) for job in effect.jobs}
        fresh = [
            job
            for job in seen.jobs
            if not job.running and not job.started and seen.now_s + alone_s[job.shape] <= job.deadline_s
        ]
        for later in fresh:
            if later.job_id in gone:
                assert all(
                    job.job_id in gone
                    for job in fresh
                    # who may join a task has another choice than to wait
                    if job.shape == later.shape and job.deadline_s < later.deadline_s and not later.batch_key
                )

    cluster.on_decided = check
    submitted(cluster, [(*each[:4], False, False, None) for each in drawn])
    cluster.run()


def stream(cluster: Cluster, seed: int, n: int, load: float) -> None:
    """Jobs of two sizes at random times, each with up to four times what it takes on one worker."""
    rng = random.Random(seed)
    at_s = 0.0
    for place in range(n):
        shape = rng.choice((SMALL, SMALL, SMALL, LARGE))
        work_s = 11.0 if shape == SMALL else 81.0
        at_s += rng.expovariate(load * len(cluster.devices) / 28.5)
        cluster.submit(
            JobView(
                f"j{place:05}",
                "tiny",
                shape,
                STEPS,
                TINY.stages,
                at_s,
                at_s + work_s * rng.uniform(0.3, 4.0),
                batch_key=rng.choice(("", "", "k")),
                drop_if_late=rng.random() < 0.5,
                deadline_asked=rng.random() < 0.5,
                least_steps=rng.choice((None, 5)),
            )
        )


@pytest.mark.parametrize("load", [0.7, 1.3])
def test_ten_thousand_events(load: float) -> None:
    """Five thousand of each load."""
    cluster = Cluster({"tiny": COSTS}, CONFIG, 2, 4, degrees=(1, 2, 4))
    cluster.keep_calls = False
    stream(cluster, seed=7, n=2400, load=load)
    cluster.run()
    check_ends(cluster, 2400)
    assert cluster.n_decisions >= 5_000
    pauses = Counter(effect.job for effect in cluster.of_kind(Pause) if isinstance(effect, Pause))
    # a pause takes at least ten times its cost of running before it: ten small steps, or one large one
    assert max(pauses.values()) <= STEPS
    said = {effect.reason for _, effect in cluster.effects}
    assert said >= {
        Reason.EARLIEST_DEADLINE,
        Reason.SPARE_WORKERS,
        Reason.LATE,
        Reason.JOINS_BATCH,
        Reason.MORE_URGENT,
        Reason.HOPELESS,
        Reason.FEWER_STEPS,
    }


def test_urgent_jobs_without_end_do_not_hold_up_a_loop_for_ever() -> None:
    """One worker; an urgent job comes every twelve seconds, each of which could pause the long one."""
    cluster = Cluster({"tiny": COSTS}, replace(CONFIG, parts=Parts(grows=False)), 1, 1, degrees=(1,))
    cluster.submit(JobView("long", "tiny", SMALL, STEPS, TINY.stages, 0.0, 100.0))
    for place in range(40):
        at_s = 1.0 + 12.0 * place
        cluster.submit(JobView(f"u{place:02}", "tiny", SMALL, STEPS, TINY.stages, at_s, at_s + 12.5))
    cluster.run()
    pauses = Counter(effect.job for effect in cluster.of_kind(Pause) if isinstance(effect, Pause))
    # it has room for seven of them, and is then left alone
    assert 1 <= pauses["long"] <= 8
    assert cluster.ended_s["long"] <= 100.0


def test_late_work_waits_no_longer_than_the_bound() -> None:
    """One worker that on-time work would keep busy for ever, and one late job."""
    cluster = Cluster({"tiny": COSTS}, replace(CONFIG, parts=Parts(grows=False)), 1, 1, degrees=(1,))
    cluster.submit(JobView("late", "tiny", SMALL, STEPS, TINY.stages, 0.0, 5.0))
    for place in range(80):
        at_s = 11.0 * place
        cluster.submit(JobView(f"j{place:02}", "tiny", SMALL, STEPS, TINY.stages, at_s, at_s + 30.0))
    cluster.run()
    (began_s,) = (
        at_s for at_s, effect in cluster.effects if isinstance(effect, Run) and effect.jobs == ("late",)
    )
    bound_s = 5.0 + OVERDUE * 11.0
    assert bound_s < began_s <= bound_s + 11.0
    reasons = {
        effect.reason for _, effect in cluster.effects if isinstance(effect, Run) and "late" in effect.jobs
    }
    assert reasons == {Reason.OVERDUE}


def test_pauses_and_growth_serve_more_on_time_and_sooner() -> None:
    """The parts against each other on one stream."""

    def outcome(parts: Parts) -> tuple[float, float]:
        cluster = Cluster({"tiny": COSTS}, replace(CONFIG, parts=parts), 2, 4, degrees=(1, 2, 4))
        cluster.keep_calls = False
        deadlines: dict[str, JobView] = {}
        submit = cluster.submit

        def kept(job: JobView) -> None:
            deadlines[job.job_id] = job
            submit(job)

        cluster.submit = kept  # type: ignore[method-assign]
        stream(cluster, seed=3, n=400, load=0.6)
        cluster.run()
        on_time = [
            name for name, at_s in cluster.ended_s.items() if at_s <= deadlines[name].deadline_s + 1e-6
        ]
        mean_s = sum(at_s - deadlines[name].arrived_s for name, at_s in cluster.ended_s.items())
        return len(on_time) / 400, mean_s / len(cluster.ended_s)

    with_all, mean_s = outcome(Parts())
    plain, plain_mean_s = outcome(Parts(pauses=False, grows=False))
    assert with_all >= plain
    assert mean_s < 0.9 * plain_mean_s


def test_batches_serve_more_of_an_overload() -> None:
    lone = Costs(TINY, COSTS.once_s, {SMALL: {1: 1.0}}, batching=0.3, max_batch=4)

    def served(parts: Parts) -> int:
        cluster = Cluster({"tiny": lone}, replace(CONFIG, parts=parts), 1, 2, degrees=(1,))
        for place in range(60):
            at_s = 3.0 * place
            cluster.submit(
                JobView(
                    f"j{place:02}",
                    "tiny",
                    SMALL,
                    STEPS,
                    TINY.stages,
                    at_s,
                    at_s + 40.0,
                    batch_key="k",
                    drop_if_late=True,
                )
            )
        cluster.run()
        return sum(at_s <= 3.0 * int(name[1:]) + 40.0 for name, at_s in cluster.ended_s.items())

    with_all = served(Parts())
    without_joins = served(Parts(joins=False))
    alone = served(Parts(joins=False, batches=False))
    assert with_all >= without_joins > alone
    assert alone < 45 < with_all
