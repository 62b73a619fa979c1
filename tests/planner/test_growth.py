"""Workers that would idle are spent on latency."""

from planner import Pause, Profile, Reason, Run
from planner.types import Parts
from tests.planner.cluster import Costs
from tests.planner.gpus import LARGE, SMALL, busy, decided, job, node, paused, running, starts
from tests.planner.values import TINY

LATE = 500.0


def test_what_starts_takes_the_idle_workers_of_its_node() -> None:
    (run,) = decided(node("n0", 4), [job("a", LATE, LARGE)])[0]
    assert isinstance(run, Run)
    assert (run.degree, run.reason) == (4, Reason.SPARE_WORKERS)
    (run,) = decided(node("n0", 4), [job("a", LATE, LARGE)], parts=Parts(grows=False))[0]
    assert isinstance(run, Run)
    assert run.degree == 1


def test_it_takes_them_only_for_a_speed_up_worth_having() -> None:
    # 10 s, 6 s, 5 s: the first doubling speeds up by 1.67, the second by 1.2
    (run,) = decided(node("n0", 4), [job("a", LATE, SMALL)])[0]
    assert isinstance(run, Run)
    assert run.degree == 2


def test_the_most_seconds_saved_per_worker_come_first() -> None:
    # two workers more: the large one saves 40 s on the first and 10 s on each of the next two
    placed = starts(decided(node("n0", 4), [job("a", 100.0, SMALL), job("b", 200.0, LARGE)])[0])
    assert {name: len(workers) for name, workers in placed.items()} == {"a": 2, "b": 2}
    placed = starts(decided(node("n0", 3), [job("a", 100.0, SMALL), job("b", 200.0, LARGE)])[0])
    assert {name: len(workers) for name, workers in placed.items()} == {"a": 1, "b": 2}


def test_a_job_starts_on_the_node_where_it_can_grow_as_long_as_there_is_room_for_all() -> None:
    workers = [*node("n0", 4), *node("n1", 1)]
    assert len(starts(decided(workers, [job("a", LATE, LARGE)])[0])["a"]) == 4
    # with growth off, or more waiting than can grow, it goes where it fits best
    assert starts(decided(workers, [job("a", LATE, LARGE)], parts=Parts(grows=False))[0]) == {"a": ("n1w0",)}
    placed = starts(decided(workers, [job("a", 100.0, LARGE), job("b", LATE, LARGE)])[0])
    assert placed["a"] == ("n1w0",)
    assert len(placed["b"]) == 4


def test_nothing_grows_while_something_waits() -> None:
    workers = [*node("n0", 2), *node("n1", 3)]
    # it needs four of a node
    wide = job("wide", 30.0, LARGE)
    assert len(starts(decided(workers, [job("a", LATE, LARGE), wide])[0])["a"]) == 1
    assert len(starts(decided(workers, [job("a", LATE, LARGE)])[0])["a"]) == 2


def test_a_running_loop_is_paused_to_go_on_wider() -> None:
    view = running("a", LATE, LARGE)
    workers = node("n0", 2)
    seen = [*busy(workers[:1], view, steps_done=2), workers[1]]
    (effect,) = decided(seen, [view])[0]
    assert isinstance(effect, Pause)
    # seven steps of 8 s become 4 s each, less the resume
    assert (effect.reason, effect.detail) == (Reason.SPARE_WORKERS, "1 more workers save 27.95 s")
    assert decided(seen, [view], parts=Parts(grows=False))[0] == []


def test_it_goes_on_at_the_larger_degree() -> None:
    view = job("a", LATE, LARGE, steps_done=3, pending=("denoise", "decode"), node="n0")
    assert len(starts(decided(node("n0", 2), [view])[0])["a"]) == 2


def test_a_running_loop_is_left_alone_if_little_is_saved() -> None:
    workers = node("n0", 2)
    for steps_done, names in ((7, ["a"]), (8, [])):
        # 0.4 s saved a step: the pause must be worth ten resumes beside its own
        view = running("a", LATE)
        seen = [*busy(workers[:1], view, steps_done=steps_done), workers[1]]
        assert paused(decided(seen, [view])[0]) == names


def test_workers_claimed_by_one_that_grows_are_not_promised_twice() -> None:
    workers = node("n0", 4)
    views = [running(f"r{place}", LATE, LARGE) for place in range(3)]
    seen = [
        *(w for place in range(3) for w in busy(workers[place : place + 1], views[place], steps_done=2)),
        workers[3],
    ]
    assert paused(decided(seen, views)[0]) == ["r0"]
    told = [*busy(workers[:1], views[0], steps_done=2, pausing=True), *seen[1:]]
    assert paused(decided(told, views)[0]) == []


def test_a_fleet_of_degree_one_never_grows() -> None:
    lone = Costs(TINY, {"encode": {SMALL: 1.0}, "decode": {SMALL: 1.0}}, {SMALL: {1: 1.0}})
    profile = Profile().with_measured(lone.measured())
    (run,) = decided(node("n0", 4), [job("a", LATE)], profile=profile)[0]
    assert isinstance(run, Run)
    assert run.degree == 1
