"""Room for wide tasks."""

from planner import JobView, WorkerView
from planner.types import Parts
from tests.planner.gpus import LARGE, busy, decided, job, node, running, starts

PARTS = Parts(pauses=False, grows=False)
WIDE = job("wide", 40.0, LARGE)
"""Needs four workers of a node for 21 s, by 19 s."""


def halves(ends_s: float) -> tuple[list[WorkerView], list[JobView]]:
    """A node with two idle workers and two that are busy until `ends_s`."""
    workers = node("n0", 4)
    # its loop of ten steps takes 10 s and its decode 0.5 s
    other = running("other", 500.0)
    done = 10 - round(ends_s - 0.5)
    third = running("third", 500.0)
    seen = [
        *workers[:2],
        *busy(workers[2:3], other, steps_done=done),
        *busy(workers[3:], third, steps_done=done),
    ]
    return seen, [other, third]


def test_the_node_that_has_room_soonest_is_kept_from_later_work() -> None:
    workers, others = halves(8.5)
    # 11 s each: would still be there
    after = [job("x", 100.0), job("y", 101.0)]
    assert starts(decided(workers, [*others, WIDE, *after], parts=PARTS)[0]) == {}
    off = Parts(pauses=False, grows=False, reserves=False)
    placed = starts(decided(workers, [*others, WIDE, *after], parts=off)[0])
    assert placed == {"x": ("n0w0",), "y": ("n0w1",)}


def test_work_that_ends_before_may_use_it() -> None:
    workers, others = halves(8.5)
    short = job("short", 100.0, steps_done=3, pending=("denoise", "decode"))
    placed = starts(decided(workers, [*others, WIDE, short, job("x", 101.0)], parts=PARTS)[0])
    assert placed == {"short": ("n0w0",)}


def test_work_that_can_give_way_may_use_it() -> None:
    workers, others = halves(8.5)
    seen = [*others, WIDE, job("x", 100.0), job("y", 900.0, LARGE)]
    # one step of x takes 1 s, one of y 8 s behind its encode, with half a second to spare
    placed = starts(decided(workers, seen, parts=Parts(grows=False))[0])
    assert placed == {"x": ("n0w0",), "y": ("n0w1",)}
    workers, others = halves(7.5)
    seen = [*others, WIDE, job("x", 100.0), job("y", 900.0, LARGE)]
    assert starts(decided(workers, seen, parts=Parts(grows=False))[0]) == {"x": ("n0w0",)}


def test_earlier_deadlines_are_not_kept_away() -> None:
    workers, others = halves(8.5)
    placed = starts(decided(workers, [*others, WIDE, job("x", 39.0)], parts=PARTS)[0])
    assert placed == {"x": ("n0w0",)}


def test_nothing_is_kept_for_who_would_be_late_by_then() -> None:
    workers, others = halves(8.5)
    hurried = job("wide", 29.0, LARGE)
    placed = starts(decided(workers, [*others, hurried, job("x", 100.0)], parts=PARTS)[0])
    assert placed == {"x": ("n0w0",)}


def test_other_nodes_are_free_to_use() -> None:
    workers, others = halves(8.5)
    placed = starts(decided([*workers, *node("n1", 1)], [*others, WIDE, job("x", 100.0)], parts=PARTS)[0])
    assert placed == {"x": ("n1w0",)}


def test_nothing_is_kept_for_who_became_wide_by_waiting() -> None:
    workers, others = halves(8.5)
    # with 41 s from its arrival two workers were enough
    for arrived_s, kept in ((-0.9, True), (-1.0, False)):
        waited = job("wide", 40.0, LARGE, arrived_s=arrived_s)
        placed = starts(decided(workers, [*others, waited, job("x", 100.0)], parts=PARTS)[0])
        assert placed == ({} if kept else {"x": ("n0w0",)})
