"""What is kept of the workers from one decision to the next: it follows what changed, and decides nothing."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from planner import Effect, Observation, PlannerState, Profile, StageSample, WorkerView, decide
from planner.policies import triptych
from planner.roster import Roster
from tests.planner.cluster import DEVICE, Cluster
from tests.planner.gpus import COSTS, LARGE, SMALL, busy, node, running
from tests.planner.test_closed_runs import CONFIG, stream
from tests.planner.values import EVERY, TINY, stages

A, B = running("a", 99.0), running("b", 99.0, LARGE)


def seen(roster: Roster, workers: list[WorkerView], targets: Mapping[str, object] | None = None) -> Roster:
    held = targets or {worker.worker_id: worker.resident for worker in workers}
    roster.see(held, Observation(0.0, (A, B), tuple(workers), {"tiny": TINY}))  # type: ignore[arg-type]
    return roster


def told(roster: Roster) -> tuple[object, ...]:
    """All that decisions read of it."""
    return (
        [
            (each.place, each.kind, each.usable, each.held_up, each.room_bytes, each.idle, each.n_idle)
            for each in roster.classes
        ],
        [(each.task, each.worker, each.node, each.workers.place) for each in roster.running],
        roster.kinds,
        roster.n_workers,
        roster.is_settled,
    )


def test_who_gets_and_loses_a_task_is_moved_and_nothing_else_is_made_anew() -> None:
    workers = node("n0", 3)
    targets = {worker.worker_id: worker.resident for worker in workers}
    roster = seen(Roster(), workers, targets)
    (all_alike,) = roster.classes
    assert all_alike.idle == {"n0": ["n0w2", "n0w1", "n0w0"]}
    workers[0:2] = busy(workers[0:2], A)
    seen(roster, workers, targets)
    assert roster.classes == [all_alike]
    assert all_alike.idle == {"n0": ["n0w2"]}
    assert [(each.worker, each.task.job_ids) for each in roster.running] == [("n0w0", ("a",))]
    workers[0:2] = node("n0", 2)
    workers[2:] = busy(workers[2:], B)
    seen(roster, workers, targets)
    assert roster.classes == [all_alike]
    assert all_alike.idle == {"n0": ["n0w1", "n0w0"]}
    assert [(each.worker, each.task.job_ids) for each in roster.running] == [("n0w2", ("b",))]


def test_who_was_taken_for_a_task_that_was_not_started_is_idle_again() -> None:
    workers = node("n0", 2)
    targets = {worker.worker_id: worker.resident for worker in workers}
    roster = seen(Roster(), workers, targets)
    (all_alike,) = roster.classes
    assert all_alike.take("n0", 2) == ["n0w0", "n0w1"]
    seen(roster, workers, targets)
    assert (all_alike.idle, all_alike.best_fit(2)) == ({"n0": ["n0w1", "n0w0"]}, "n0")


@pytest.mark.parametrize(
    "change",
    [
        {"resident": stages("encode")},
        {"loading": stages("encode")},
        {"occupied": True},
        {"node": "n9"},
        {"device": "other"},
        {"degrees": (1,)},
        {"memory_bytes": 7},
    ],
)
def test_any_other_change_is_seen(change: dict[str, object]) -> None:
    before = node("n0", 3)
    now = [replace(before[0], **change), *before[1:]]  # type: ignore[arg-type]
    targets = {worker.worker_id: EVERY for worker in before}
    kept = seen(seen(Roster(), before, targets), now, targets)
    assert told(kept) == told(seen(Roster(), now, targets))
    other = {**targets, "n0w1": stages("encode")}
    assert told(seen(kept, now, other)) == told(seen(Roster(), now, other))


def test_it_is_settled_when_nobody_is_to_load_or_to_drop_anything() -> None:
    workers = node("n0", 2, resident=stages("encode"))
    both = {"n0w0": stages("encode"), "n0w1": stages("encode")}
    assert seen(Roster(), workers, both).is_settled
    more = {**both, "n0w1": stages("encode", "decode")}
    assert not seen(Roster(), workers, more).is_settled
    workers[1] = replace(workers[1], loading=stages("decode"))
    assert seen(Roster(), workers, more).is_settled


@pytest.mark.parametrize(("load", "noise"), [(0.6, 0.0), (0.8, 0.2), (1.3, 0.2)])
def test_what_is_kept_changes_no_decision(load: float, noise: float) -> None:
    """Each decision again without anything kept: of the workers, of what was asked of the profile."""
    cluster = Cluster({"tiny": COSTS}, CONFIG, 2, 4, degrees=(1, 2, 4))
    cluster.keep_calls = False
    rng = random.Random(1)

    def compared(state: PlannerState, shown: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
        shape, degree = rng.choice((SMALL, LARGE)), rng.choice((1, 2))
        seconds = 10 * COSTS.of("denoise", shape, degree, 1) * rng.uniform(1 - noise, 1 + noise)
        sample = StageSample("tiny", "denoise", shape, 10, seconds, shown.now_s, device=DEVICE, degree=degree)
        shown = replace(shown, finished=(sample,) if rng.random() < 0.3 else ())
        known = state.profile
        forgetful = Profile({key: replace(of) for key, of in known.costs.items()}, known.measurements)
        anew = triptych.decide(replace(state, roster=Roster(), profile=forgetful), shown)
        kept = decide(state, shown)
        assert kept == anew
        return kept

    cluster.decide = compared  # type: ignore[assignment]
    stream(cluster, seed=5, n=150, load=load)
    cluster.run()
    assert cluster.n_decisions > 200
