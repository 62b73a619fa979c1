"""What becomes of jobs that cannot be on time."""

from planner import Effect, Reason, Run
from planner.lateness import OVERDUE
from planner.types import Parts
from tests.planner.gpus import LARGE, busy, decided, job, node, running, starts

PARTS = Parts(grows=False)


def reasons(effects: list[Effect]) -> dict[str, Reason]:
    return {effect.jobs[0]: effect.reason for effect in effects if isinstance(effect, Run)}


def test_late_work_comes_behind_all_that_can_be_on_time() -> None:
    late, on_time = job("late", 5.0), job("on time", 100.0)
    effects = decided(node("n0", 1), [late, on_time], parts=PARTS)[0]
    assert reasons(effects) == {"on time": Reason.EARLIEST_DEADLINE}
    effects = decided(node("n0", 2), [late, on_time], parts=PARTS)[0]
    assert reasons(effects) == {"on time": Reason.EARLIEST_DEADLINE, "late": Reason.LATE}


def test_late_work_runs_at_the_degree_of_least_gpu_seconds() -> None:
    # 10, 12 and 20 GPU-seconds
    assert len(starts(decided(node("n0", 4), [job("late", 1.0)], parts=PARTS)[0])["late"]) == 1


def test_late_work_leaves_an_eighth_of_the_workers_idle() -> None:
    jobs = [job(f"late {place}", 1.0) for place in range(9)]
    two = [*node("n0", 4), *node("n1", 4)]
    assert len(starts(decided(two, jobs, parts=PARTS)[0])) == 7
    assert len(starts(decided(two, jobs, parts=Parts(grows=False, reserves=False))[0])) == 8
    assert len(starts(decided(two[:7], jobs, parts=PARTS)[0])) == 7


def test_a_job_that_waited_twenty_times_its_cost_goes_first() -> None:
    # alone it takes 11 s
    long_wait_s = 5.0 + OVERDUE * 11.0
    late, on_time = job("late", 5.0), job("on time", 900.0)
    for now_s, reason in (
        (long_wait_s - 0.1, {"on time": Reason.EARLIEST_DEADLINE}),
        (long_wait_s + 0.1, {"late": Reason.OVERDUE}),
    ):
        effects = decided(node("n0", 1), [late, on_time], parts=PARTS, now_s=now_s)[0]
        assert reasons(effects) == reason


def test_overdue_tasks_have_at_most_an_eighth_of_the_workers() -> None:
    jobs = [job(f"late {place}", -900.0) for place in range(4)]
    fresh = [job(f"fresh {place}", 100.0) for place in range(16)]
    workers = [view for place in range(4) for view in node(f"n{place}", 4)]
    effects = decided(workers, [*jobs, *fresh], parts=PARTS)[0]
    found = list(reasons(effects).values())
    assert (found.count(Reason.OVERDUE), found.count(Reason.EARLIEST_DEADLINE)) == (2, 14)
    # one of them runs already
    began = running("began", -900.0)
    seen = [*busy(workers[:1], began), *workers[1:]]
    effects = decided(seen, [began, *jobs, *fresh], parts=PARTS)[0]
    assert list(reasons(effects).values()).count(Reason.OVERDUE) == 1


def test_a_larger_job_may_be_made_to_wait_longer() -> None:
    late, on_time = job("late", 5.0, LARGE), job("on time", 900.0)
    effects = decided(node("n0", 1), [late, on_time], parts=PARTS, now_s=5.0 + OVERDUE * 11.0 + 1.0)[0]
    assert reasons(effects) == {"on time": Reason.EARLIEST_DEADLINE}
