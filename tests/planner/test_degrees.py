"""Who runs where at which degree, on workers that offer several."""

from dataclasses import replace

from planner import Profile, Reason, Run, Shape
from planner.types import Parts
from tests.planner.gpus import COSTS, LARGE, SMALL, busy, decided, idle, job, node, running, starts
from tests.planner.values import EVERY, LOOP, REST, stages

PLAIN = Parts(grows=False, pauses=False)


def test_the_smallest_degree_that_meets_the_deadline_is_taken() -> None:
    for deadline_s, degree in ((81.0, 1), (80.9, 2), (41.0, 2), (40.9, 4), (21.0, 4)):
        (run,) = decided(node("n0", 4), [job("a", deadline_s, LARGE)], parts=PLAIN)[0]
        assert isinstance(run, Run)
        assert (run.degree, len(run.workers), run.reason) == (degree, degree, Reason.EARLIEST_DEADLINE)


def test_time_that_passes_asks_for_a_larger_degree() -> None:
    (run,) = decided(node("n0", 4), [job("a", 81.0, LARGE)], parts=PLAIN, now_s=1.0)[0]
    assert isinstance(run, Run)
    assert run.degree == 2


def test_a_degree_that_no_measurement_offers_is_not_taken() -> None:
    workers = [idle(f"n0w{place}") for place in range(8)]
    (run,) = decided(workers, [job("a", 21.0, LARGE)], parts=PLAIN)[0]
    assert isinstance(run, Run)
    assert run.degree == 4


def test_a_gang_is_of_one_node_and_goes_where_it_fits_best() -> None:
    workers = [*node("n0", 4), *node("n1", 2), *node("n2", 3)]
    assert starts(decided(workers, [job("a", 41.0, LARGE)], parts=PLAIN)[0]) == {"a": ("n1w0", "n1w1")}
    other = running("other", 500.0)
    apart = [*node("n0", 1), *busy([idle("n0w1")], other), *node("n1", 1)]
    assert starts(decided(apart, [other, job("a", 41.0, LARGE)], parts=PLAIN)[0]) == {}


def test_small_jobs_do_not_break_up_the_node_that_a_wide_one_needs() -> None:
    workers = [*node("n0", 4), *node("n1", 1)]
    jobs = [job("small", 20.0), job("wide", 30.0, LARGE)]
    placed = starts(decided(workers, jobs, parts=PLAIN)[0])
    assert placed["small"] == ("n1w0",)
    assert len(placed["wide"]) == 4


def test_a_paused_job_goes_on_where_its_checkpoint_lies() -> None:
    workers = [*node("n0", 1), *node("n1", 4)]
    went = job("a", 81.0, steps_done=3, pending=("denoise", "decode"), node="n1")
    assert starts(decided(workers, [went], parts=PLAIN)[0]) == {"a": ("n1w0",)}
    full = [*node("n0", 1), *busy(node("n1", 1), running("other", 99.0))]
    assert starts(decided(full, [went, running("other", 99.0)], parts=PLAIN)[0]) == {"a": ("n0w0",)}


def test_going_on_costs_a_resume_and_only_the_steps_that_are_left() -> None:
    # seven steps, the resume and the decode: 7.55 s
    for deadline_s, degree in ((7.55, 1), (7.5, 2)):
        went = job("a", deadline_s, steps_done=3, pending=("denoise", "decode"))
        (run,) = decided(node("n0", 4), [went], parts=PLAIN)[0]
        assert isinstance(run, Run)
        assert run.degree == degree


def test_the_first_of_a_gang_holds_what_comes_after_the_loop() -> None:
    workers = [idle("a", resident=LOOP), idle("b", resident=LOOP), idle("c", resident=EVERY)]
    (run,) = decided(workers, [job("x", 41.0, LARGE)], parts=PLAIN)[0]
    assert isinstance(run, Run)
    assert run.stages == ("encode", "denoise", "decode")
    assert run.workers == ("c", "a")


def test_an_encode_alone_takes_one_worker_whatever_its_loop_will_take() -> None:
    workers = [idle("a", resident=REST), idle("b", resident=REST), idle("c", resident=LOOP)]
    (run,) = decided(workers, [job("x", 41.0, LARGE)], parts=PLAIN)[0]
    assert isinstance(run, Run)
    assert (run.stages, run.workers) == (("encode",), ("a",))


def test_an_encode_whose_loop_cannot_begin_in_time_lets_others_go_first() -> None:
    long = running("long", 200.0, LARGE)
    workers = [idle("e", resident=REST), *busy([idle("d", resident=LOOP)], long, can_pause=False)]
    # the loop's only home is busy for 80 s: "first" could be on time only if it were not
    first, second = job("first", 30.0), job("second", 100.0)
    assert starts(decided(workers, [long, first, second], parts=PLAIN)[0]) == {"second": ("e",)}
    assert starts(decided(workers, [long, first], parts=PLAIN)[0]) == {"first": ("e",)}
    # a boundary of a loop that may be left is soon enough
    workers = [idle("e", resident=REST), *busy([idle("d", resident=LOOP)], long)]
    assert starts(decided(workers, [long, first, second])[0]) == {"first": ("e",)}


def test_memory_bounds_what_a_worker_is_given() -> None:
    measured = COSTS.measured()
    with_bytes = Profile().with_measured(
        replace(
            measured,
            measured=tuple(
                replace(each, peak_bytes=50 if each.stage == "decode" else 10) for each in measured.measured
            ),
        )
    )
    tight, roomy = replace(idle("a"), memory_bytes=40), replace(idle("b"), memory_bytes=60)
    both = decided([tight, roomy], [job("x", 99.0)], parts=PLAIN, profile=with_bytes)[0]
    assert starts(both) == {"x": ("b",)}
    (run,) = decided([tight], [job("x", 99.0)], parts=PLAIN, profile=with_bytes)[0]
    assert isinstance(run, Run)
    assert run.stages == ("encode", "denoise")


def test_a_loop_starts_at_a_degree_that_has_room_for_its_shape() -> None:
    """The large loop needs 80 bytes divided by its degree, all else 10."""
    measured = COSTS.measured()
    with_bytes = Profile().with_measured(
        replace(
            measured,
            measured=tuple(
                replace(
                    each,
                    peak_bytes=80 // each.degree if each.stage == "denoise" and each.shape == LARGE else 10,
                )
                for each in measured.measured
            ),
        )
    )

    def placed(room_bytes: int, shape: Shape, deadline_s: float = 900.0) -> dict[str, tuple[str, ...]]:
        tight = [replace(worker, memory_bytes=room_bytes) for worker in node("n0", 4)]
        return starts(decided(tight, [job("x", deadline_s, shape)], parts=PLAIN, profile=with_bytes)[0])

    assert placed(40, SMALL) == {"x": ("n0w0",)}
    assert placed(80, LARGE) == {"x": ("n0w0",)}
    assert placed(79, LARGE) == {"x": ("n0w0", "n0w1")}
    assert placed(39, LARGE) == {"x": ("n0w0", "n0w1", "n0w2", "n0w3")}
    # late work as well, at the cheapest degree that has room
    assert placed(79, LARGE, deadline_s=1.0) == {"x": ("n0w0", "n0w1")}
    # none has: it is tried, and may fail there
    assert placed(19, LARGE) == {"x": ("n0w0",)}


def test_a_wide_job_is_not_held_up_by_a_model_whose_stage_is_nowhere() -> None:
    workers = [idle("a", resident=stages("encode"))]
    stuck = job("stuck", 5.0, pending=("denoise", "decode"))
    assert starts(decided(workers, [stuck, job("x", 99.0)], parts=PLAIN)[0]) == {"x": ("a",)}
