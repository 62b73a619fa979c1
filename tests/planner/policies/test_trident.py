"""TridentServe's Dispatcher on instances that are worked by hand.

Costs without a bound on memory are those of `tests.planner.gpus`: a small job takes 11 s on one worker and 7
on two, more is not efficient; a large one 81, 41 and 21 s on one, two and four.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner import JobView, Observation, PlannerConfig, PlannerState, Reason, Run, WakeAt, WorkerView, decide
from planner.policies.floor import Floor
from planner.policies.trident_worth import Kinds
from planner.state import initial_state
from planner.types import Effect
from tests.bench import small_costs
from tests.planner.gpus import LARGE, PROFILE, SMALL, busy, job, node, running, starts
from tests.planner.policies import small
from tests.planner.values import EVERY, MODELS

LATE = 500.0


class Planner:
    def __init__(self) -> None:
        self.state: PlannerState = initial_state(PlannerConfig(policy="trident"), PROFILE)

    def says(
        self, workers: Sequence[WorkerView], jobs: Sequence[JobView], now_s: float = 0.0
    ) -> list[Effect]:
        self.state, effects = decide(self.state, Observation(now_s, tuple(jobs), tuple(workers), MODELS))
        return list(effects)


def said(workers: Sequence[WorkerView], jobs: Sequence[JobView], now_s: float = 0.0) -> list[Effect]:
    return Planner().says(workers, jobs, now_s)


def degrees(effects: Sequence[Effect]) -> dict[str, int]:
    return {name: len(workers) for name, workers in starts(effects).items()}


# what the program chooses


def test_more_on_time_is_worth_more() -> None:
    """Two workers: the large job needs both to be on time, each of the small ones needs one."""
    jobs = [job("large", 45.0, LARGE), job("a", 12.0, arrived_s=1.0), job("b", 12.0, arrived_s=2.0)]
    effects = said(node("n0", 2), jobs)
    assert degrees(effects) == {"a": 1, "b": 1}
    assert {effect.reason for effect in effects if isinstance(effect, Run)} == {Reason.MOST_REWARD}
    assert degrees(said(node("n0", 2), jobs[:1])) == {"large": 2}


def test_nothing_is_reserved() -> None:
    """One of two workers is idle. The large job needs both; a small one that has time takes the idle one."""
    long = running("long", LATE)
    workers = [*busy(node("n0", 1), long, steps_done=9), node("n0", 2)[1]]
    jobs = [long, job("large", 45.0, LARGE), job("small", LATE, arrived_s=1.0)]
    assert degrees(said(workers, jobs)) == {"small": 1}


def test_equals_go_by_deadline() -> None:
    jobs = [job("later", 60.0), job("sooner", 50.0, arrived_s=1.0), job("lost", 2.0, arrived_s=2.0)]
    assert degrees(said(node("n0", 1), jobs)) == {"sooner": 1}
    lost = [job("less", 3.0), job("more", 2.0, arrived_s=1.0)]
    assert degrees(said(node("n0", 1), lost)) == {"more": 1}


def test_who_can_still_be_on_time_waits_for_a_degree_at_which_it_is() -> None:
    """A large job due at 45 needs two workers. One is idle; at 5 it would be lost, and begins there."""
    long = running("long", LATE, LARGE)
    workers = [*busy(node("n0", 1), long), node("n0", 2)[1]]
    waiting = job("a", 45.0, LARGE)
    assert degrees(said(workers, [long, waiting])) == {}
    assert degrees(said(workers, [long, waiting], 5.0)) == {"a": 1}


def test_no_worker_idles_that_could_speed_somebody_up_efficiently() -> None:
    """The large job goes to four, at the whole speed-up; the small one to two, since 11 / 6 over four is less
    than .8 a worker."""
    assert degrees(said(node("n0", 4), [job("a", LATE, LARGE)])) == {"a": 4}
    assert degrees(said(node("n0", 4), [job("a", LATE)])) == {"a": 2}
    assert degrees(said(node("n0", 4), [job("a", LATE), job("b", LATE, LARGE)])) == {"a": 2, "b": 2}


def test_a_late_request_comes_behind_and_is_served_all_the_same() -> None:
    late, on_time = job("late", 3.0), job("fresh", 12.0, arrived_s=1.0)
    assert degrees(said(node("n0", 1), [late, on_time])) == {"fresh": 1}
    assert degrees(said(node("n0", 1), [late])) == {"late": 1}


def test_what_a_lost_request_is_worth_ages_up_to_an_on_time_one() -> None:
    """A small job takes 11 s on one worker and 7 on two. Due in 7 it is on time on two, and on one not worth
    starting. Due now it is 7 s late at best, once its best latency: 200; overdue by 7 it is 300, and by 56
    it counts like one that is on time. A wider degree is worth 1 more, and every worker 1."""
    view = job("a", 7.0)
    seen = Observation(0.0, (view,), tuple(node("n0", 2)), MODELS)
    (group,) = Floor({"n0w0": EVERY, "n0w1": EVERY}, seen).groups
    kind = Kinds(seen, PROFILE).of(view, group, "V0")
    assert kind is not None
    assert kind.by_degree == ((1, 11.0), (2, 7.0))
    assert kind.choices(11.0) == [(1, 1001.0), (2, 1002.0)]
    assert kind.choices(7.0) == [(2, 1002.0)]
    assert kind.choices(0.0) == [(1, 201.0), (2, 203.0)]
    assert kind.choices(-7.0) == [(1, 301.0), (2, 303.0)]
    assert kind.choices(-56.0) == kind.choices(-99.0) == [(1, 1001.0), (2, 1003.0)]


def test_a_type_that_hands_over_more_is_worth_less_among_equals() -> None:
    view = job("a", LATE)
    seen = Observation(0.0, (view,), tuple(node("n0", 1)), MODELS)
    (group,) = Floor({"n0w0": EVERY}, seen).groups
    values = []
    for replica in ("V0", "V1", "V2", "V3"):
        kind = Kinds(seen, PROFILE).of(view, group, replica)
        assert kind is not None
        values.append(kind.choices(100.0)[0][1])
    assert values == sorted(values, reverse=True)
    assert values[0] - values[3] < 1.0


def test_to_look_at_no_more_alike_than_there_are_workers_changes_nothing() -> None:
    """Forty jobs on three workers: those due first, and one that only two workers can have on time."""
    jobs = [job(f"s{n:02}", 100.0 - n, arrived_s=float(n)) for n in range(40)]
    assert degrees(said(node("n0", 3), jobs, 39.0)) == {"s39": 1, "s38": 1, "s37": 1}
    assert degrees(said(node("n0", 3), [*jobs, job("large", 81.0, LARGE)], 39.0))["s39"] == 1


# where


def test_a_group_is_of_one_node_and_the_rest_is_solved_again() -> None:
    """Six workers are idle, at most two on a node: 2 each instead of 4 for the first and 2 for the second."""
    workers = [*node("n0", 2), *node("n1", 2), *node("n2", 2)]
    jobs = [job(f"l{n}", LATE, LARGE, arrived_s=float(n)) for n in range(3)]
    assert starts(said(workers, jobs)) == {
        "l0": ("n0w0", "n0w1"),
        "l1": ("n1w0", "n1w1"),
        "l2": ("n2w0", "n2w1"),
    }


def test_what_does_not_fit_on_a_node_takes_what_is_left() -> None:
    """Four and three idle: 4 + 2 for two large ones, since no node has a second four."""
    workers = [*node("n0", 4), *node("n1", 3)]
    jobs = [job(f"l{n}", LATE, LARGE, arrived_s=float(n)) for n in range(2)]
    assert degrees(said(workers, jobs)) == {"l0": 4, "l1": 2}


# when


def test_it_solves_every_half_second() -> None:
    planner = Planner()
    workers = node("n0", 2)
    assert degrees(planner.says(workers[:1], [job("a", LATE)], 10.0)) == {"a": 1}
    rest = [*busy(workers[:1], running("a", LATE)), workers[1]]
    jobs = [running("a", LATE), job("b", LATE, arrived_s=10.2)]
    assert planner.says(rest, jobs, 10.2) == [WakeAt(at_s=10.5, reason=Reason.WAITING_JOBS)]
    assert degrees(planner.says(rest, jobs, 10.5)) == {"b": 1}
    # nothing was dispatched for longer than that: at once
    assert degrees(planner.says([workers[1]], [job("c", LATE, arrived_s=17.3)], 17.3)) == {"c": 1}


def test_nothing_waits_and_it_sleeps() -> None:
    assert not any(isinstance(effect, WakeAt) for effect in said(node("n0", 2), []))


def test_nothing_is_paused_or_dropped() -> None:
    long = running("long", LATE, LARGE)
    effects = said(busy(node("n0", 1), long), [long, job("a", 12.0, drop_if_late=True)])
    assert [type(effect) for effect in effects] == [WakeAt]


# stages apart: small jobs are V0 in a memory of 16, large ones V1, which is DC beside E


def apart() -> tuple[small.Asked, list[WorkerView]]:
    """Eight workers are 4 x EDC, 3 x DC, 1 x E, all loaded."""
    planner = small.Asked("trident", small_costs.small_costs(memory_bytes=16))
    planner.says(small.node("n0", 8, memory_bytes=16))
    workers = [small.worker(name, letters, 16) for name, letters in planner.holds.items()]
    assert list(planner.holds.values()) == ["EDC"] * 4 + ["DC"] * 3 + ["E"]
    return planner, workers


def test_the_first_plan_is_loaded_at_once() -> None:
    planner = small.Asked("trident", small_costs.small_costs(memory_bytes=16))
    effects = planner.says(small.node("n0", 8, memory_bytes=16))
    assert small.loads(effects)["n0w0"] == small_costs.STAGES
    assert small.loads(effects)["n0w4"] == ("denoise", "decode")
    assert small.loads(effects)["n0w7"] == ("encode",)


def test_e_is_merged_where_the_primary_holds_it_else_it_is_on_the_auxiliary() -> None:
    planner, workers = apart()
    jobs = [small.job("s"), small.job("l", small_costs.LARGE, arrived_s=1.0)]
    effects = planner.says(workers, jobs, 1.0)
    assert small.runs(effects) == {"l": ("E", ("n0w7",)), "s": ("EDC", ("n0w0", "n0w1"))}


def test_d_and_c_stay_together_where_the_primary_holds_c() -> None:
    """Behind its E a large job takes two of the DC workers, one of which decodes."""
    planner, workers = apart()
    jobs = [small.job("l", small_costs.LARGE, pending=("denoise", "decode"))]
    assert small.runs(planner.says(workers, jobs, 1.0)) == {"l": ("DC", ("n0w4", "n0w5"))}


def test_large_requests_never_go_where_there_is_no_memory_for_them() -> None:
    planner, workers = apart()
    jobs = [small.job(f"l{n}", small_costs.LARGE, pending=("denoise", "decode")) for n in range(4)]
    runs = small.runs(planner.says(workers, jobs, 1.0))
    assert sorted(name for _, names in runs.values() for name in names) == ["n0w4", "n0w5", "n0w6"]


def test_a_small_request_may_overflow_to_other_primaries() -> None:
    """Five small ones on the four workers that are EDC: the last has its E on the auxiliary."""
    planner, workers = apart()
    jobs = [small.job(f"s{n}", arrived_s=0.1 * n) for n in range(5)]
    runs = small.runs(planner.says(workers, jobs, 1.0))
    assert [runs[f"s{n}"][0] for n in range(5)] == ["EDC"] * 4 + ["E"]


def test_c_goes_to_the_auxiliary_that_is_free_and_waits_for_it() -> None:
    """Memory 15: all are V3, and of eight workers six have D, one E and one C."""
    planner = small.Asked("trident", small_costs.small_costs(memory_bytes=15), expected=small.EVEN[1:])
    planner.says(small.node("n0", 8, memory_bytes=15))
    assert list(planner.holds.values()) == ["D"] * 6 + ["E", "C"]
    workers = [small.worker(name, letters, 15) for name, letters in planner.holds.items()]
    jobs = [small.job(f"c{n}", small_costs.LARGE, arrived_s=float(n), pending=("decode",)) for n in range(2)]
    assert small.runs(planner.says(workers, jobs, 1.0)) == {"c0": ("C", ("n0w7",))}


def test_a_new_plan_moves_weights_only_for_who_waits() -> None:
    """Large ones only: n0w0 to n0w3 are to be DC now. They hold E besides, which leaves when the first group
    is sent there, and no sooner."""
    planner, workers = apart()
    jobs = [
        small.job(f"l{n}", small_costs.LARGE, arrived_s=20.0, pending=("denoise", "decode"))
        for n in range(16)
    ]
    fresh = [small.job(f"f{n}", small_costs.LARGE, arrived_s=20.0) for n in range(16)]
    planner.says([], [*jobs, *fresh], 20.0)
    quiet = planner.says([small.at_work(w, jobs[0]) for w in workers], fresh, 31.0)
    assert set(planner.holds.values()) == {"DC", "E"}
    assert not small.loads(quiet)
    assert not small.evictions(quiet)
    effects = planner.says(workers, jobs[:1], 40.0)
    ((letters, names),) = small.runs(effects).values()
    assert letters == "DC"
    assert all(stages == ("encode",) for stages in small.evictions(effects).values())
    assert set(small.evictions(effects)) <= set(names)


def test_a_stage_that_is_missing_is_loaded_when_a_request_waits_for_it() -> None:
    """n0w0 is to be EDC and has C only: nothing happens until a small job finds nobody else idle."""
    planner, workers = apart()
    poor = small.worker("n0w0", "C", 16)
    others = [small.at_work(w, small.job(f"x{w.worker_id}", running=True)) for w in workers[1:]]
    assert not small.loads(planner.says([poor, *others], [], 1.0))
    effects = planner.says([poor, *others], [small.job("s")], 2.0)
    assert small.loads(effects) == {"n0w0": ("encode", "denoise")}


def test_a_decode_without_an_auxiliary_runs_where_it_can() -> None:
    """A request whose primary was lost behind its loop, on a fleet of EDC only."""
    effects = said(node("n0", 1), [job("a", LATE, SMALL, pending=("decode",))])
    assert starts(effects) == {"a": ("n0w0",)}


def test_an_unknown_cost_runs_on_one_worker() -> None:
    state = initial_state(PlannerConfig(policy="trident"))
    _, effects = decide(state, Observation(0.0, (job("a", LATE),), tuple(node("n0", 4)), MODELS))
    assert degrees(effects) == {"a": 1}


def test_a_pinned_placement_is_served_as_it_stands() -> None:
    pinned = {"n0w0": ("denoise",), "n0w1": ("encode", "decode")}
    planner = small.Asked("trident", small_costs.small_costs(), pinned=pinned)
    workers = small.node("n0", 2, "EDC")
    behind = small.job("b", pending=("denoise", "decode"))
    assert small.runs(planner.says(workers, [small.job("a"), behind])) == {
        "a": ("E", ("n0w1",)),
        "b": ("D", ("n0w0",)),
    }
