"""The LegoDiffusion-style scheduler on instances that are worked by hand.

Costs: `tests.planner.policies.small`. Loading takes 3 s for the encode, 5 for the loop and 1 for the decode.
"""

from __future__ import annotations

from dataclasses import replace

from planner import Reason, Run
from planner.types import Reject
from tests.bench.small_costs import LARGE, small_costs
from tests.planner.policies.small import Asked, at_work, evictions, job, loads, node, runs, worker

COSTS = small_costs()


def test_deeper_nodes_go_first_then_the_first_come() -> None:
    jobs = [
        job("new", arrived_s=0.0),
        job("loop", arrived_s=1.0, pending=("denoise", "decode")),
        job("end", arrived_s=3.0, pending=("decode",)),
        job("end before", arrived_s=2.0, pending=("decode",)),
    ]
    effects = Asked("lego", COSTS).says(node("n0", 3, "EDC"), jobs)
    assert list(runs(effects)) == ["end before", "end", "loop"]
    assert {effect.reason for effect in effects if isinstance(effect, Run)} == {Reason.DEEPEST_FIRST}


def test_every_node_is_a_task_of_its_own_on_one_worker() -> None:
    effects = Asked("lego", COSTS).says(node("n0", 4, "EDC"), [job("a", LARGE)])
    assert runs(effects) == {"a": ("E", ("n0w0",))}
    behind = [job("a", LARGE, pending=("denoise", "decode"))]
    assert runs(Asked("lego", COSTS).says(node("n0", 4, "EDC"), behind)) == {"a": ("D", ("n0w0",))}


def test_deadlines_are_no_order() -> None:
    jobs = [job("first", deadline_s=900.0), job("second", deadline_s=12.0, arrived_s=1.0)]
    assert list(runs(Asked("lego", COSTS).says(node("n0", 1, "EDC"), jobs, 1.0))) == ["first"]


def test_a_busy_worker_that_is_soon_free_is_waited_for() -> None:
    """A decode takes 2 s, of which 1.5 are over; to load it elsewhere would take 1 s."""
    running = job("x", pending=("decode",), running=True)
    workers = [at_work(worker("n0w0", "C"), running), worker("n0w1", "ED")]
    waiting = job("a", pending=("decode",), arrived_s=1.0)
    assert Asked("lego", COSTS).says(workers, [running, waiting], 1.5) == []


def test_what_would_wait_for_longer_is_loaded() -> None:
    """The same, with all of the 2 s to come."""
    running = job("x", pending=("decode",), running=True)
    workers = [at_work(worker("n0w0", "C"), running), worker("n0w1", "ED")]
    waiting = job("a", pending=("decode",))
    assert loads(Asked("lego", COSTS).says(workers, [running, waiting])) == {"n0w1": ("decode",)}


def test_the_second_in_the_queue_waits_behind_the_first() -> None:
    """In .5 s the holder is free; then the first takes 2 s, and the second is better off with a load."""
    running = job("x", pending=("decode",), running=True)
    workers = [at_work(worker("n0w0", "C"), running), worker("n0w1", "ED"), worker("n0w2", "ED")]
    waiting = [job(f"c{n}", pending=("decode",), arrived_s=1.0 + n / 10) for n in range(2)]
    assert loads(Asked("lego", COSTS).says(workers, [running, *waiting], 1.5)) == {"n0w1": ("decode",)}


def test_a_load_makes_room_by_what_fewest_wait_for() -> None:
    """In a memory of 13 a worker with E and D has no room for C and its peak. One job waits for D."""
    workers = [worker("n0w0", "ED", 13), worker("n0w1", "E", 13)]
    busy = [at_work(workers[1], job("x", running=True))]
    jobs = [job("d", pending=("denoise", "decode"), arrived_s=5.0), job("c", pending=("decode",))]
    effects = Asked("lego", small_costs(memory_bytes=13)).says([workers[0], *busy], jobs, 5.0)
    assert evictions(effects) == {"n0w0": ("encode",)}
    assert loads(effects) == {"n0w0": ("decode",)}


def test_a_run_makes_room_for_its_peak() -> None:
    """Weights 14 and a large decode's peak of 6 in 16: the loop, which weighs most, is evicted."""
    effects = Asked("lego", small_costs(memory_bytes=16)).says(
        [worker("n0w0", "EDC", 16)], [job("a", LARGE, pending=("decode",))]
    )
    assert evictions(effects) == {"n0w0": ("denoise",)}
    assert runs(effects) == {"a": ("C", ("n0w0",))}


def test_a_worker_with_room_comes_before_one_without() -> None:
    workers = [worker("n0w0", "EDC", 16), worker("n0w1", "C", 16)]
    jobs = [job("a", LARGE, pending=("decode",))]
    assert runs(Asked("lego", small_costs(memory_bytes=16)).says(workers, jobs)) == {"a": ("C", ("n0w1",))}


def test_fetching_decides_between_equals() -> None:
    view = replace(job("a", pending=("decode",)), node="n1")
    workers = [*node("n0", 1, "EDC"), *node("n1", 1, "EDC")]
    assert runs(Asked("lego", COSTS).says(workers, [view])) == {"a": ("C", ("n1w0",))}


def test_parts_are_held_by_their_work_and_whatever_else_fits() -> None:
    """GPU-seconds of the even mix: D 42, C 4, E 2, so of eight workers six, one and one. In 16 D and C have
    room together at degree 1 (10 + 6), E besides has not, and beside E there is room for C only."""
    planner = Asked("lego", small_costs(memory_bytes=16))
    effects = planner.says(node("n0", 8, memory_bytes=16))
    assert list(planner.holds.values()) == ["DC"] * 7 + ["EC"]
    assert loads(effects)["n0w0"] == ("denoise", "decode")
    assert loads(effects)["n0w7"] == ("encode", "decode")


def test_batches_are_as_large_as_the_profile_says_that_it_pays() -> None:
    """Two together take half as long again as one, more take as long as one by one: pairs."""
    planner = Asked("lego", small_costs(batches=True))
    jobs = [job(f"j{n}", batch_key="k", arrived_s=float(n)) for n in range(3)]
    effects = planner.says(node("n0", 2, "EDC"), jobs)
    assert [effect.jobs for effect in effects if isinstance(effect, Run)] == [("j0", "j1"), ("j2",)]
    alone = Asked("lego", COSTS).says(node("n0", 3, "EDC"), jobs)
    assert [effect.jobs for effect in alone if isinstance(effect, Run)] == [("j0",), ("j1",), ("j2",)]


def test_only_what_is_alike_is_batched() -> None:
    planner = Asked("lego", small_costs(batches=True))
    jobs = [job("a", batch_key="k"), job("b", batch_key="l"), job("c", LARGE, batch_key="k"), job("d")]
    effects = planner.says(node("n0", 4, "EDC"), jobs)
    assert [effect.jobs for effect in effects if isinstance(effect, Run)] == [("a",), ("b",), ("c",), ("d",)]


def rejected(deadlines_s: list[float], n_workers: int = 1, **more: object) -> list[str]:
    jobs = [
        job(f"j{n}", deadline_s=deadline_s, arrived_s=n / 10, **{"drop_if_late": True, **more})  # type: ignore[arg-type]
        for n, deadline_s in enumerate(deadlines_s)
    ]
    effects = Asked("lego", COSTS).says(node("n0", n_workers, "EDC"), jobs)
    return [effect.job for effect in effects if isinstance(effect, Reject)]


def test_admission_by_the_work_that_waits() -> None:
    """11 s each on one worker: the second would be through after 22, the third after 33."""
    assert rejected([22.0, 22.0, 22.0]) == ["j2"]
    assert rejected([22.0, 21.0, 22.0]) == ["j1"]
    assert rejected([22.0, 22.0, 22.0], n_workers=2) == []


def test_admission_does_not_count_what_runs() -> None:
    """A large job runs for 32 s to come, and a worker is idle."""
    large = job("x", LARGE, pending=("denoise", "decode"), running=True)
    workers = [at_work(worker("n0w0", "EDC"), large), worker("n0w1", "EDC")]
    effects = Asked("lego", COSTS).says(workers, [large, job("a", deadline_s=12.0, drop_if_late=True)])
    assert runs(effects) == {"a": ("E", ("n0w1",))}


def test_admission_by_what_the_request_takes_itself() -> None:
    assert rejected([10.0], n_workers=8) == ["j0"]
    assert rejected([11.0], n_workers=8) == []


def test_admission_refuses_only_who_may_be_refused_and_only_on_arrival() -> None:
    assert rejected([10.0], drop_if_late=False) == []
    planner = Asked("lego", COSTS)
    admitted = job("a", deadline_s=12.0, drop_if_late=True)
    other = at_work(worker("n0w0", "EDC"), job("x", running=True))
    assert not any(isinstance(effect, Reject) for effect in planner.says([other], [admitted]))
    assert not any(isinstance(effect, Reject) for effect in planner.says([other], [admitted], 5.0))
