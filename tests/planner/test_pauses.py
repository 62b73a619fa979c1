"""Who is paused for whom."""

from dataclasses import replace

from planner import Pause, Profile, Reason, WakeAt
from planner.types import JobView, Parts
from tests.planner.gpus import COSTS, LARGE, busy, decided, job, node, paused, running, starts

NO_GROWTH = Parts(grows=False)


def test_an_urgent_job_pauses_one_with_a_later_deadline_and_room() -> None:
    long = running("long", 100.0)
    workers = busy(node("n0", 1), long, steps_done=2)
    (effect,), wake = decided(workers, [long, job("urgent", 15.0)], now_s=0.2)
    assert isinstance(effect, Pause)
    assert (effect.worker, effect.job, effect.reason) == ("n0w0", "long", Reason.MORE_URGENT)
    assert effect.detail == "urgent needs 1 of n0 within 3.80 s"
    # the worker will say when it is free
    assert wake is None


def test_it_looks_again_while_nobody_can_be_paused_yet() -> None:
    # a step takes less than ten resumes, and none was made yet
    slow = Profile().with_measured(replace(COSTS.measured(), resume_s=0.15))
    long = running("long", 100.0)
    workers = busy(node("n0", 1), long, since_s=0.0)
    effects, wake = decided(workers, [long, job("urgent", 15.0)], now_s=0.2, profile=slow)
    assert (effects, wake) == ([], WakeAt(at_s=0.25, reason=Reason.WAITING_JOBS))


def test_pauses_can_be_switched_off() -> None:
    long = running("long", 100.0)
    workers = busy(node("n0", 1), long, steps_done=2)
    assert decided(workers, [long, job("urgent", 15.0)], parts=Parts(pauses=False)) == ([], None)


def test_while_a_worker_comes_free_in_time_only_longer_work_is_paused() -> None:
    # 7 steps, a resume and a decode behind 1 s: less than the 11 s of the urgent one
    short = running("short", 100.0)
    workers = busy(node("n0", 1), short, steps_done=2)
    # it ends at 8.5 s
    assert paused(decided(workers, [short, job("urgent", 8.5 + 11.0 + 0.01)])[0]) == []
    assert paused(decided(workers, [short, job("urgent", 8.5 + 11.0 - 0.01)])[0]) == ["short"]
    long = running("long", 900.0, LARGE)
    assert paused(decided(busy(node("n0", 1), long, steps_done=2), [long, job("urgent", 300.0)])[0]) == [
        "long"
    ]
    # the second of two has to wait for the second one that ends
    two = node("n0", 2)
    seen = [*busy(two[:1], short, steps_done=2), *busy(two[1:], running("other", 100.0), steps_done=0)]
    waiting = [job("urgent", 20.0), job("next", 20.0)]
    assert paused(decided(seen, [short, running("other", 100.0), *waiting])[0]) == ["short"]


def test_for_who_waits_alone_a_pause_has_to_gain_more_than_it_costs() -> None:
    # the large one can be left after 8 s, then the urgent one takes 11 s and the resume 0.05 s
    large = running("large", 900.0, LARGE)
    two = node("n0", 2)
    for steps_made, named in ((8, []), (7, ["large"])):
        # 16.5 s or 24.5 s until it ends
        other = running("other", 900.0, LARGE)
        workers = [
            *busy(two[:1], large, steps_done=2),
            *busy(two[1:], other, steps_done=steps_made, can_pause=False),
        ]
        waiting = job("urgent", 100.0)
        assert paused(decided(workers, [large, other, waiting])[0]) == named
        # it has to begin by 10 s
        assert paused(decided(workers, [large, other, job("urgent", 21.0)])[0]) == ["large"]
        # there is more to do behind it
        assert paused(decided(workers, [large, other, waiting, job("next", 101.0)])[0]) == ["large"]


def test_nobody_is_paused_for_a_later_deadline() -> None:
    long = running("long", 14.0)
    workers = busy(node("n0", 1), long, steps_done=2)
    assert paused(decided(workers, [long, job("later", 15.0)])[0]) == []


def test_nobody_is_paused_who_would_be_late_by_it() -> None:
    # left at 1 s it has 7 steps, a resume and a decode to do, 7.55 s, behind 11 s of the urgent one
    for deadline_s, names in ((1 + 11 + 1.1 * 7.55 + 0.01, ["long"]), (1 + 11 + 1.1 * 7.55 - 0.01, [])):
        long = running("long", deadline_s)
        workers = busy(node("n0", 1), long, steps_done=2)
        assert paused(decided(workers, [long, job("urgent", 15.0)], parts=NO_GROWTH)[0]) == names


def test_nobody_is_paused_when_the_boundary_comes_too_late() -> None:
    long = running("long", 900.0, LARGE)
    workers = busy(node("n0", 1), long, steps_done=2)
    # its step ends at 8 s; the urgent one takes 6 s at least, but only one worker is there: 11 s
    assert paused(decided(workers, [long, job("urgent", 19.0)])[0]) == ["long"]
    assert paused(decided(workers, [long, job("urgent", 18.9)])[0]) == []


def test_a_task_that_is_told_already_is_not_asked_twice_and_counts() -> None:
    long, other = running("long", 200.0), running("other", 300.0)
    workers = node("n0", 2)
    told = [*busy(workers[:1], long, steps_done=2, pausing=True), *busy(workers[1:], other, steps_done=2)]
    assert paused(decided(told, [long, other, job("urgent", 15.0)])[0]) == []
    two = [job("urgent", 15.0), job("second", 16.0)]
    assert paused(decided(told, [long, other, *two])[0]) == ["other"]


def test_what_cannot_be_paused_is_left_alone() -> None:
    long = running("long", 100.0)
    urgent = job("urgent", 15.0)
    fixed = busy(node("n0", 1), long, steps_done=2, can_pause=False)
    assert paused(decided(fixed, [long, urgent])[0]) == []
    decoding = busy(node("n0", 1), long, pending=("decode",))
    assert paused(decided(decoding, [long, urgent])[0]) == []
    last_step = busy(node("n0", 1), long, steps_done=9)
    assert paused(decided(last_step, [long, urgent])[0]) == []


def test_a_loop_runs_for_ten_resumes_between_two_pauses() -> None:
    # a step of 1 s is twenty resumes: one is enough, but one it takes
    long = running("long", 100.0)
    for steps_before in (0, 2):
        workers = busy(node("n0", 1), long, steps_done=2, steps_before=steps_before)
        assert paused(decided(workers, [long, job("urgent", 15.0)])[0]) == ["long"]
    slow = Profile().with_measured(replace(COSTS.measured(), resume_s=0.15))
    for steps_before, names in ((2, []), (1, ["long"])):
        workers = busy(node("n0", 1), long, steps_done=2, steps_before=steps_before)
        found = decided(workers, [long, job("urgent", 15.0)], profile=slow)[0]
        assert paused(found) == names


def test_the_latest_deadline_is_paused_and_no_more_than_needed() -> None:
    workers = node("n0", 2)
    sooner, later = running("sooner", 100.0), running("later", 200.0)
    both = [*busy(workers[:1], sooner, steps_done=2), *busy(workers[1:], later, steps_done=2)]
    assert paused(decided(both, [sooner, later, job("urgent", 15.0)])[0]) == ["later"]


def test_a_gang_is_freed_on_one_node_with_the_fewest_tasks() -> None:
    jobs = [running(f"r{place}", 500.0) for place in range(4)]
    n0, n1 = node("n0", 4), node("n1", 4)
    wide = running("wide", 500.0, LARGE)
    workers = [
        worker
        for place, view in enumerate(jobs)
        for worker in busy(n0[place : place + 1], view, steps_done=2)
    ]
    workers += busy(n1, wide, steps_done=2)
    # it needs four: of n1 the one task, of n0 all
    urgent = job("urgent", 26.0, LARGE)
    assert paused(decided(workers, [*jobs, wide, urgent])[0]) == ["wide"]
    fixed = [*workers[:4], *busy(n1, wide, steps_done=2, can_pause=False)]
    assert sorted(paused(decided(fixed, [*jobs, wide, urgent])[0])) == ["r0", "r1", "r2", "r3"]


def test_a_grown_task_shrinks_before_one_is_held_up() -> None:
    workers = node("n0", 3)
    grown, patient = running("grown", 60.0, LARGE), running("patient", 400.0)
    seen = [*busy(workers[:2], grown, steps_done=2), *busy(workers[2:], patient, steps_done=2)]
    # left at 4 s, "grown" does 7 steps in 56 s on one worker: too late; with two more done it is in time
    urgent = job("urgent", 19.0)
    assert paused(decided(seen, [grown, patient, urgent])[0]) == ["patient"]
    seen = [*busy(workers[:2], grown, steps_done=5), *busy(workers[2:], patient, steps_done=2)]
    assert paused(decided(seen, [grown, patient, urgent])[0]) == ["grown"]


def test_late_work_gives_way_to_what_can_be_on_time() -> None:
    late = running("late", 1.0)
    workers = busy(node("n0", 1), late, steps_done=2)
    assert paused(decided(workers, [late, job("urgent", 15.0)])[0]) == ["late"]


def test_an_overdue_task_does_not_give_way_any_more() -> None:
    late = running("late", -500.0)
    workers = busy(node("n0", 1), late, steps_done=2)
    assert paused(decided(workers, [late, job("urgent", 15.0)])[0]) == []


def test_a_batch_is_not_paused() -> None:
    one, two = running("one", 100.0), running("two", 100.0)
    workers = busy(node("n0", 1), one, steps_done=2, others=[two])
    assert paused(decided(workers, [one, two, job("urgent", 15.0)])[0]) == []


def test_the_paused_one_goes_on_behind_the_urgent_one() -> None:
    urgent: JobView = job("urgent", 15.0)
    long = job("long", 100.0, steps_done=3, pending=("denoise", "decode"))
    assert starts(decided(node("n0", 1), [long, urgent], parts=NO_GROWTH)[0]) == {"urgent": ("n0w0",)}
