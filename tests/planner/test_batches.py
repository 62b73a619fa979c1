"""Jobs that share a task."""

from dataclasses import replace

from planner import JobView, Pause, Profile, Reason, Run, Shape, WorkerView
from planner.types import Parts
from tests.planner.gpus import COSTS, LARGE, PROFILE, SMALL, busy, decided, idle, job, node, running, starts
from tests.planner.values import LOOP, REST

LATE = 500.0


def alike(n: int, deadline_s: float = LATE, shape: Shape = SMALL) -> list[JobView]:
    return [job(f"j{place}", deadline_s + place, shape, batch_key="k") for place in range(n)]


def groups(
    workers: list[WorkerView], jobs: list[JobView], *, profile: Profile = PROFILE, parts: Parts | None = None
) -> list[tuple[str, ...]]:
    effects = decided(workers, jobs, profile=profile, parts=parts)[0]
    return [effect.jobs for effect in effects if isinstance(effect, Run)]


def test_who_finds_no_worker_joins_what_starts() -> None:
    assert groups(node("n0", 1), alike(3)) == [("j0", "j1", "j2")]


def test_idle_workers_come_before_batches() -> None:
    assert groups(node("n0", 3), alike(3)) == [("j0",), ("j1",), ("j2",)]
    assert groups(node("n0", 2), alike(3)) == [("j0", "j2"), ("j1",)]


def test_the_only_one_that_waits_joins_a_start_only_if_that_is_better_for_the_mean() -> None:
    # alone 11 s, two together 18.7 s: later on average than one in 11 s and one in 22 s
    profile = Profile().with_measured(replace(COSTS, batching=0.7).measured())
    assert groups(node("n0", 1), alike(2), profile=profile) == [("j0",)]
    # with a third one waiting fewer GPU-seconds count
    assert groups(node("n0", 1), alike(3), profile=profile) == [("j0", "j1")]
    # who would be late by waiting joins
    hurried = [job("j0", 18.8, batch_key="k"), job("j1", 21.9, batch_key="k")]
    assert groups(node("n0", 1), hurried, profile=profile) == [("j0", "j1")]


def test_batches_end_at_the_knee() -> None:
    # four were measured: more are taken to cost as much as one by one
    assert groups(node("n0", 1), alike(6)) == [("j0", "j1", "j2", "j3")]
    dear = Profile().with_measured(replace(COSTS, batching=0.85).measured())
    # two take 1.85 times as long: 7 % less a job is not worth it
    assert groups(node("n0", 1), alike(6), profile=dear) == [("j0",)]


def test_batches_can_be_switched_off() -> None:
    assert groups(node("n0", 1), alike(3), parts=Parts(batches=False)) == [("j0",)]


def test_only_what_is_alike_shares() -> None:
    one = alike(1)[0]
    for other in (
        job("o", LATE + 9),
        job("o", LATE + 9, batch_key="other"),
        job("o", LATE + 9, LARGE, batch_key="k"),
        job("o", LATE + 9, batch_key="k", pending=("denoise", "decode")),
    ):
        assert groups(node("n0", 1), [one, other]) == [("j0",)]


def test_nobody_becomes_late_by_who_joins() -> None:
    # alone 11 s, two together 16.5 s
    hurried, patient = job("a", 16.4, batch_key="k"), job("b", LATE, batch_key="k")
    assert groups(node("n0", 1), [hurried, patient]) == [("a",)]
    hurried = job("a", 16.6, batch_key="k")
    assert groups(node("n0", 1), [hurried, patient]) == [("a", "b")]


def test_who_needs_a_larger_degree_does_not_join_at_one() -> None:
    # in 10 s it can be done on two workers only
    hurried = job("b", 10.0, batch_key="k")
    first = job("a", 9.0, batch_key="k", pending=("denoise", "decode"), steps_done=3)
    again = job("b", 10.0, batch_key="k", pending=("denoise", "decode"))
    busy_one = running("x", LATE)
    workers = [idle("a"), *busy([idle("b")], busy_one, can_pause=False)]
    assert groups(workers, [busy_one, first, again], parts=Parts(grows=False)) == [("a",)]
    workers, views = looping()
    seen = [*workers, *busy([idle("n0w1")], busy_one, can_pause=False)]
    assert starts(decided(seen, [*views, busy_one, hurried], parts=Parts(pauses=False))[0]) == {}


def test_an_encode_is_shared_by_any_shapes() -> None:
    workers = [idle("e", resident=REST), *busy([idle("d", resident=LOOP)], running("x", LATE))]
    jobs = [job("a", LATE, batch_key="k"), job("b", LATE + 1, LARGE, batch_key="k"), running("x", LATE)]
    (run,) = decided(workers, jobs)[0]
    assert isinstance(run, Run)
    assert (run.stages, run.jobs) == (("encode",), ("a", "b"))


def encoders(n: int, *, looping: bool = True) -> list[WorkerView]:
    """`n` idle workers that encode, and one for loops, which is busy with "x" or idle."""
    idle_loops = [idle("d", resident=LOOP)]
    loops = busy(idle_loops, running("x", LATE), can_pause=False) if looping else idle_loops
    return [*(idle(f"e{place}", resident=REST) for place in range(n)), *loops]


def test_encodes_are_shared_when_no_worker_is_idle_for_them() -> None:
    jobs = [*alike(3), running("x", LATE)]
    assert groups(encoders(3), jobs) == [("j0",), ("j1",), ("j2",)]
    assert groups(encoders(2), jobs) == [("j0", "j2"), ("j1",)]
    assert groups(encoders(1), jobs) == [("j0", "j1", "j2")]


def test_encodes_are_shared_up_to_their_own_knee() -> None:
    def with_encodes(*factors: float) -> Profile:
        """Of 1, 2, 4 and so on together; loops gain nothing by batches."""
        measured = replace(COSTS, batching=1.0).measured()
        others = [each for each in measured.measured if each.stage != "encode"]
        encodes = [
            replace(each, batch=2**place, seconds=0.5 * factor)
            for each in measured.measured
            if each.stage == "encode" and each.batch == 1
            for place, factor in enumerate(factors)
        ]
        return Profile().with_measured(replace(measured, measured=(*others, *encodes)))

    jobs = [*alike(9), running("x", LATE)]
    for factors, n in (
        ((1.0,), 1),
        ((1.0, 1.9), 1),
        ((1.0, 1.2), 2),
        ((1.0, 1.2, 1.6, 2.4), 8),
        ((1, 1.2, 2.3), 2),
    ):
        (first, *_) = groups(encoders(1), jobs, profile=with_encodes(*factors))
        assert len(first) == n


def test_an_encode_in_a_batch_leaves_the_loop_alone() -> None:
    """Deadlines are for what is shared: two encodes take 0.75 s instead of 0.5, their loops 10 s each."""
    for deadline_s, together in ((11.26, True), (11.24, False)):
        # alone at degree 1; at degree 2 it may still be done in less
        first = job("a", deadline_s, batch_key="k", pending=("encode", "denoise", "decode"))
        jobs = [first, job("b", LATE, batch_key="k")]
        workers = [replace(each, degrees=(1,)) for each in encoders(1, looping=False)]
        assert groups(workers, jobs) == ([("a", "b")] if together else [("a",)])


def test_an_encode_in_a_batch_costs_nothing_while_its_loop_must_wait() -> None:
    """The worker for loops is free in 5.5 s: an encode may as well take 0.75 s as 0.5."""
    ends_s = 5.0 + 0.5
    for deadline_s, together in ((ends_s + 10.5 + 0.01, True), (ends_s + 10.5 - 0.01, False)):
        workers = [replace(each, degrees=(1,)) for each in encoders(1)]
        loop = replace(busy([workers[-1]], running("x", LATE), steps_done=5, can_pause=False)[0])
        jobs = [
            job("a", deadline_s, batch_key="k"),
            job("b", LATE, batch_key="k"),
            running("x", LATE),
        ]
        found = groups([*workers[:-1], loop], jobs)
        assert (("a", "b") in found) is together


def test_jobs_at_other_steps_share_too() -> None:
    went = job("b", LATE + 1, batch_key="k", steps_done=4, pending=("denoise", "decode"))
    first = job("a", LATE, batch_key="k", pending=("denoise", "decode"))
    assert groups(node("n0", 1), [first, went]) == [("a", "b")]


def test_memory_bounds_a_batch() -> None:
    measured = COSTS.measured()
    profile = Profile().with_measured(
        replace(
            measured, measured=tuple(replace(each, peak_bytes=10 * each.batch) for each in measured.measured)
        )
    )
    workers = [replace(idle("a"), memory_bytes=25)]
    assert groups(workers, alike(6), profile=profile) == [("j0", "j1")]


SOON = 19.0
"""Too early for a job that waits for the loop's end, at 8.5 s, and late enough for one that joins it."""


def looping(deadline_s: float = LATE, *, n: int = 1) -> tuple[list[WorkerView], list[JobView]]:
    views = [running(f"r{place}", deadline_s, batch_key="k") for place in range(n)]
    return busy(node("n0", 1), views[0], steps_done=2, others=views[1:]), views


def test_who_finds_no_worker_joins_a_running_loop() -> None:
    workers, views = looping()
    (run,) = decided(workers, [*views, job("new", SOON, batch_key="k")])[0]
    assert run == Run(
        stages=("encode", "denoise", "decode"),
        jobs=("new",),
        workers=("n0w0",),
        reason=Reason.JOINS_BATCH,
        joins="r0",
    )


def test_the_only_one_that_waits_does_not_join_if_it_can_be_on_time_without() -> None:
    # waiting for 8.5 s it ends at 19.5 s
    workers, views = looping()
    assert starts(decided(workers, [*views, job("new", 19.4, batch_key="k")])[0]) == {"new": ("n0w0",)}
    new = job("new", 19.6, batch_key="k")
    assert starts(decided(workers, [*views, new])[0]) == {}
    # with a queue it joins: fewer GPU-seconds are what counts then
    for other in (job("first", 19.5), job("behind", LATE + 9), job("late", 1.0)):
        placed = starts(decided(workers, [*views, new, other], parts=Parts(pauses=False, rejects=False))[0])
        assert placed == {"new": ("n0w0",)}


def test_joining_can_be_switched_off() -> None:
    workers, views = looping()
    jobs = [*views, job("new", SOON, batch_key="k")]
    assert starts(decided(workers, jobs, parts=Parts(joins=False))[0]) == {}


def test_an_idle_worker_is_better_than_joining() -> None:
    workers, views = looping()
    placed = starts(decided([*workers, idle("free")], [*views, job("new", LATE, batch_key="k")])[0])
    assert placed == {"new": ("free",)}


def test_nobody_who_runs_becomes_late_by_who_joins() -> None:
    # the encode, eight steps of 1.5 s, and the decode of two
    for deadline_s, n in ((0.75 + 8 * 1.5 + 0.75 + 0.01, 1), (0.75 + 8 * 1.5 + 0.75 - 0.01, 0)):
        workers, views = looping(deadline_s)
        jobs = [*views, job("new", SOON, batch_key="k")]
        assert len(starts(decided(workers, jobs, parts=Parts(pauses=False))[0])) == n


def test_a_running_batch_takes_no_more_than_the_knee() -> None:
    workers, views = looping(n=3)
    jobs = [*views, *alike(2)]
    assert list(starts(decided(workers, jobs)[0])) == ["j0"]


def test_a_loop_that_is_told_to_pause_takes_nobody() -> None:
    _, views = looping()
    workers = busy(node("n0", 1), views[0], steps_done=2, pausing=True)
    assert starts(decided(workers, [*views, *alike(1, SOON)])[0]) == {}


def test_a_loop_that_is_joined_is_not_paused_at_once() -> None:
    workers, views = looping()
    jobs = [*views, *alike(1), job("urgent", 15.0)]
    # by deadline: the urgent one's pause comes first, and who is to be left takes nobody
    (effect,) = decided(workers, jobs)[0]
    assert isinstance(effect, Pause)
    jobs = [*views, *alike(1, 30.0), job("urgent", 31.0)]
    assert [type(effect) for effect in decided(workers, jobs)[0]] == [Run]


def test_a_loop_that_has_not_begun_takes_nobody() -> None:
    _, views = looping()
    workers = busy(node("n0", 1), views[0], pending=("encode", "denoise", "decode"))
    assert starts(decided(workers, [*views, *alike(1, SOON)])[0]) == {}


def test_a_loop_in_its_last_step_takes_nobody() -> None:
    _, views = looping()
    workers = busy(node("n0", 1), views[0], steps_done=9)
    assert starts(decided(workers, [*views, *alike(1, SOON)])[0]) == {}
