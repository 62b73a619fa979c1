from planner import JobView, Observation, Reason, Run, WorkerView
from planner.placement import Targets
from tests.planner.values import EVERY, LOOP, MODELS, REST, TINY, job, runs, stages, worker

ALL = TINY.stages


def run(job_id: str, worker_id: str, *names: str) -> Run:
    return Run(stages=names, jobs=(job_id,), workers=(worker_id,))


def dispatched(targets: Targets, workers: list[WorkerView], jobs: list[JobView]) -> list[Run]:
    return runs(targets, Observation(0.0, tuple(jobs), tuple(workers), MODELS))


def test_the_earliest_deadline_runs_first_whatever_came_first() -> None:
    jobs = [job("early", 30.0, arrived_s=0.0), job("urgent", 20.0, arrived_s=5.0)]
    effects = dispatched({"w0": EVERY}, [worker("w0")], jobs)
    assert effects == [run("urgent", "w0", *ALL)]
    assert effects[0].reason is Reason.EARLIEST_DEADLINE


def test_equal_deadlines_go_by_arrival_and_then_by_id() -> None:
    later, b, a = job("0", 20.0, arrived_s=2.0), job("b", 20.0, arrived_s=1.0), job("a", 20.0, arrived_s=1.0)
    assert dispatched({"w0": EVERY}, [worker("w0")], [later, b, a]) == [run("a", "w0", *ALL)]
    assert dispatched({"w0": EVERY}, [worker("w0")], [later, b]) == [run("b", "w0", *ALL)]


def test_equal_deadlines_go_by_priority_before_arrival() -> None:
    jobs = [
        job("batch", 20.0, priority="batch"),
        job("standard", 20.0, arrived_s=1.0),
        job("interactive", 20.0, arrived_s=2.0, priority="interactive"),
    ]
    names = ["interactive", "standard", "batch"]
    workers = [worker(f"w{i}") for i in range(3)]
    effects = dispatched(dict.fromkeys(("w0", "w1", "w2"), EVERY), workers, jobs)
    assert effects == [run(name, f"w{i}", *ALL) for i, name in enumerate(names)]


def test_an_earlier_deadline_comes_before_any_priority() -> None:
    jobs = [job("hurried", 20.0, priority="interactive"), job("patient", 19.0, priority="batch")]
    assert dispatched({"w0": EVERY}, [worker("w0")], jobs) == [run("patient", "w0", *ALL)]


def test_busy_workers_and_running_jobs_are_left_alone() -> None:
    jobs = [job("a", 1.0, running=True), job("b", 2.0), job("c", 3.0)]
    workers = [worker("w0", busy_with=("decode",)), worker("w1")]
    assert dispatched({"w0": EVERY, "w1": EVERY}, workers, jobs) == [run("b", "w1", *ALL)]


def test_each_idle_worker_gets_one_job_in_order_of_deadline() -> None:
    jobs = [job("c", 3.0), job("b", 2.0), job("a", 1.0)]
    effects = dispatched({"w0": EVERY, "w1": EVERY}, [worker("w1"), worker("w0")], jobs)
    assert effects == [run("a", "w0", *ALL), run("b", "w1", *ALL)]


def test_consecutive_stages_that_live_together_become_one_task() -> None:
    split = {"w0": REST, "w1": LOOP}
    workers = [worker("w0", REST), worker("w1", LOOP)]
    fresh, encoded = job("fresh", 9.0), job("encoded", 5.0, pending=("denoise", "decode"))
    assert dispatched(split, workers, [fresh, encoded]) == [
        run("encoded", "w1", "denoise"),
        run("fresh", "w0", "encode"),
    ]
    tail = {"w0": stages("denoise", "decode")}
    assert dispatched(tail, [worker("w0", tail["w0"])], [encoded]) == [
        run("encoded", "w0", "denoise", "decode")
    ]


def test_merging_stops_at_a_stage_that_has_its_place_elsewhere() -> None:
    targets = {"w0": stages("encode", "denoise"), "w1": stages("decode")}
    workers = [worker("w0", EVERY), worker("w1", stages("decode"))]
    assert dispatched(targets, workers, [job("a", 1.0)]) == [run("a", "w0", "encode", "denoise")]


def test_the_worker_that_can_take_most_of_the_job_is_chosen() -> None:
    targets = {"w0": stages("encode"), "w1": stages("encode", "denoise")}
    workers = [worker("w0", targets["w0"]), worker("w1", targets["w1"])]
    assert dispatched(targets, workers, [job("a", 1.0)]) == [run("a", "w1", "encode", "denoise")]


def test_then_the_worker_with_the_fewest_other_stages() -> None:
    targets = {"w0": EVERY, "w1": stages("decode")}
    workers = [worker("w0"), worker("w1", stages("decode"))]
    assert dispatched(targets, workers, [job("a", 1.0, pending=("decode",))]) == [run("a", "w1", "decode")]


def test_then_the_lowest_id() -> None:
    workers = [worker("w1"), worker("w0")]
    assert dispatched({"w0": EVERY, "w1": EVERY}, workers, [job("a", 1.0)]) == [run("a", "w0", *ALL)]


def test_a_worker_that_is_loading_is_taken_only_when_no_other_can() -> None:
    targets = {"w0": EVERY, "w1": LOOP}
    loading, other = worker("w0", REST | LOOP, loading=stages("x")), worker("w1", LOOP)
    ready = job("a", 1.0, pending=("denoise", "decode"))
    assert dispatched(targets, [loading, other], [ready]) == [run("a", "w1", "denoise")]
    assert dispatched({"w0": EVERY}, [loading], [ready]) == [run("a", "w0", "denoise", "decode")]


def test_loading_is_not_resident() -> None:
    assert dispatched({"w0": EVERY}, [worker("w0", frozenset(), loading=EVERY)], [job("a", 1.0)]) == []


def test_a_stage_waits_for_its_own_worker_once_that_is_ready() -> None:
    targets = {"w0": REST, "w1": LOOP}
    workers = [worker("w0", EVERY), worker("w1", LOOP, busy_with=("denoise",))]
    assert dispatched(targets, workers, [job("a", 1.0, pending=("denoise", "decode"))]) == []


def test_a_stage_without_a_ready_home_runs_where_it_still_is() -> None:
    targets = {"w0": REST, "w1": LOOP}
    workers = [worker("w0", EVERY), worker("w1", frozenset(), loading=LOOP)]
    assert dispatched(targets, workers, [job("a", 1.0)]) == [run("a", "w0", *ALL)]


def test_decodes_and_encodes_on_one_worker_go_by_deadline_alone() -> None:
    targets = {"w0": REST, "w1": LOOP}
    workers = [worker("w0", REST), worker("w1", LOOP, busy_with=("denoise",))]
    decode, encode = job("decode", 8.0, pending=("decode",)), job("encode", 7.0)
    assert dispatched(targets, workers, [decode, encode]) == [run("encode", "w0", "encode")]
    hurried = job("decode", 6.0, pending=("decode",), arrived_s=5.0)
    assert dispatched(targets, workers, [encode, hurried]) == [run("decode", "w0", "decode")]


def test_a_job_that_nobody_can_run_does_not_hold_up_the_next() -> None:
    stuck, next_one = job("stuck", 1.0, pending=("denoise",)), job("next", 2.0)
    assert dispatched({"w0": REST}, [worker("w0", REST)], [stuck, next_one]) == [run("next", "w0", "encode")]
