from dataclasses import replace

from planner import Evict, JobView, Load, ModelView, Observation, Placement, Profile, Reason, WorkerView
from planner.placement import Targets
from planner.residency import carried_out, idle_moves, urgent_moves
from planner.rooms import Sizes
from tests.planner.values import EVERY, LOOP, MODELS, REST, TINY, job, stages, worker

SPLIT = {"w0": REST, "w1": LOOP}
SIZED = replace(TINY, weight_bytes={"encode": 1, "denoise": 2, "decode": 1})


def seen(*workers: WorkerView, models: dict[str, ModelView] | None = None, jobs: int = 0) -> Observation:
    waiting = tuple(job(f"job {i}", 1.0) for i in range(jobs))
    return Observation(0.0, waiting, workers, MODELS if models is None else models)


def placement(targets: Targets) -> Placement:
    return Placement(stages=targets, changed_s=0.0, reason=Reason.MIX_SHIFTED, detail="why")


def urgent(targets: Targets, observation: Observation) -> list[Load | Evict]:
    return urgent_moves(placement(targets), observation, Sizes(Profile(), observation.models, {}))


def idle(targets: Targets, observation: Observation, *started: str) -> list[Load | Evict]:
    return idle_moves(placement(targets), observation, Sizes(Profile(), observation.models, {}), started)


def moved(targets: Targets, observation: Observation) -> list[Load | Evict]:
    """Both, as nothing is run in between."""
    first = urgent(targets, observation)
    return [*first, *idle(targets, carried_out(observation, first))]


def load(worker_id: str, *names: str, model: str = "tiny") -> Load:
    return Load(worker=worker_id, model=model, stages=names, reason=Reason.MIX_SHIFTED, detail="why")


def evict(worker_id: str, *names: str) -> Evict:
    return Evict(worker=worker_id, model="tiny", stages=names, reason=Reason.MIX_SHIFTED, detail="why")


def test_what_is_missing_is_asked_for_once_in_the_order_of_the_graph() -> None:
    observation = seen(worker("w1", frozenset()), worker("w0", frozenset()))
    assert moved(SPLIT, observation) == [load("w0", "encode", "decode"), load("w1", "denoise")]
    assert moved(SPLIT, carried_out(observation, moved(SPLIT, observation))) == []


def test_what_is_resident_loading_or_failed_is_not_asked_for() -> None:
    observation = seen(worker("w0", stages("encode"), loading=stages("decode")), worker("w1", LOOP))
    assert moved(SPLIT, observation) == []
    failed = replace(worker("w0", stages("encode")), failed=stages("decode"))
    assert moved(SPLIT, seen(failed, worker("w1", LOOP))) == []


def test_each_model_is_loaded_for_itself() -> None:
    models = {**MODELS, "video": ModelView("video", ("loop",), "loop")}
    targets = {"w0": REST, "w1": LOOP | stages("loop", model="video")}
    observation = seen(worker("w0", REST), worker("w1", frozenset()), models=models)
    assert moved(targets, observation) == [load("w1", "denoise"), load("w1", "loop", model="video")]


def test_a_worker_with_something_to_do_loads_what_nobody_has() -> None:
    busy = worker("w1", REST, busy_with=("decode",))
    assert urgent({"w0": REST, "w1": EVERY}, seen(worker("w0", REST), busy)) == [load("w1", "denoise")]
    # and once: that it is on its way somewhere is enough
    coming = worker("w0", REST, loading=LOOP)
    assert urgent({"w0": EVERY, "w1": EVERY}, seen(coming, busy)) == []


def test_a_worker_with_something_to_do_loads_what_jobs_wait_for_and_no_idle_one_has() -> None:
    targets = {"w0": EVERY, "w1": EVERY}
    without, busy_without = worker("w1", LOOP), worker("w1", LOOP, busy_with=("denoise",))
    busy, free = worker("w0", busy_with=("denoise",)), worker("w0")
    assert urgent(targets, seen(busy, busy_without)) == []
    assert urgent(targets, seen(free, busy_without, jobs=1)) == []
    assert urgent(targets, seen(busy, busy_without, jobs=1)) == [load("w1", "encode", "decode")]
    assert urgent(targets, seen(busy, without, jobs=1)) == [load("w1", "encode", "decode")]


def test_no_more_workers_are_kept_from_their_work_than_jobs_wait() -> None:
    targets = dict.fromkeys(("w0", "w1", "w2", "w3", "w4", "w5"), EVERY)
    workers = [worker(name, LOOP, busy_with=("denoise",)) for name in targets]
    workers[0] = worker("w0", busy_with=("denoise",))
    assert [move.worker for move in urgent(targets, seen(*workers, jobs=2))] == ["w1", "w2"]
    # those that have nothing to do first
    workers[4] = worker("w4", LOOP)
    assert [move.worker for move in urgent(targets, seen(*workers, jobs=2))] == ["w4", "w1"]


def test_all_else_is_loaded_in_idle_time() -> None:
    targets = {"w0": EVERY, "w1": EVERY, "w2": EVERY}
    busy = worker("w1", LOOP, busy_with=("denoise",))
    observation = seen(worker("w0"), busy, worker("w2", LOOP))
    assert idle(targets, observation) == [load("w2", "encode", "decode")]
    assert idle(targets, observation, "w2") == []


def test_half_of_a_stage_s_workers_stay_ready() -> None:
    targets = dict.fromkeys(("w0", "w1", "w2", "w3", "w4"), EVERY)
    some = [worker(name, LOOP) for name in targets]
    # of five three stay, of two one, and one that is alone cannot wait for another
    assert [move.worker for move in idle(targets, seen(*some))] == ["w0", "w1"]
    assert [move.worker for move in idle(targets, seen(*some[:2]))] == ["w0"]
    assert [move.worker for move in idle(targets, seen(some[0]))] == ["w0"]
    # a worker that is held up anyway may load more
    held_up = worker("w0", LOOP, loading=stages("encode"))
    assert idle(targets, seen(held_up, some[1])) == [load("w0", "decode")]
    occupied = replace(worker("w0", EVERY), occupied=True)
    assert idle(targets, seen(occupied, some[1])) == []


def test_stages_with_another_ready_home_are_evicted() -> None:
    assert idle(SPLIT, seen(worker("w0"), worker("w1"))) == [
        evict("w0", "denoise"),
        evict("w1", "encode", "decode"),
    ]


def test_a_home_that_is_still_loading_is_none() -> None:
    observation = seen(worker("w0"), worker("w1", stages("encode", "decode"), loading=LOOP))
    assert idle(SPLIT, observation) == [evict("w1", "encode", "decode")]


def test_a_copy_on_a_worker_that_is_to_lose_it_too_is_no_home() -> None:
    targets = {"w0": REST, "w1": REST, "w2": LOOP}
    observation = seen(worker("w0"), worker("w1"), worker("w2", frozenset(), loading=LOOP))
    assert idle(targets, observation) == []


def test_nothing_is_evicted_that_the_running_task_still_needs() -> None:
    needs_decode = seen(worker("w0"), worker("w1", busy_with=("denoise", "decode")))
    assert idle(SPLIT, needs_decode) == [evict("w0", "denoise"), evict("w1", "encode")]
    needs_denoise = seen(worker("w0"), worker("w1", busy_with=("denoise",)))
    assert idle(SPLIT, needs_denoise) == [evict("w0", "denoise"), evict("w1", "encode", "decode")]
    # what was started in this very decision is not seen as a task yet
    assert idle(SPLIT, needs_decode, "w0") == [evict("w1", "encode")]


def test_a_stage_that_no_target_holds_stays() -> None:
    assert idle({"w0": REST}, seen(worker("w0", EVERY))) == []


def sized(worker_id: str, memory_bytes: int, resident: frozenset[tuple[str, str]], *busy: str) -> WorkerView:
    return replace(worker(worker_id, resident, busy_with=busy), memory_bytes=memory_bytes)


def with_sizes(*workers: WorkerView, jobs: tuple[JobView, ...] = ()) -> Observation:
    return Observation(0.0, jobs, workers, {"tiny": SIZED})


def test_what_has_no_place_makes_room_first() -> None:
    # 3 bytes: encode and denoise; decode for encode, whose other home is ready
    observation = with_sizes(sized("w0", 3, stages("encode", "denoise")), sized("w1", 3, stages("encode")))
    targets = {"w0": stages("denoise", "decode"), "w1": stages("encode")}
    assert urgent(targets, observation) == [evict("w0", "encode"), load("w0", "decode")]


def test_no_more_makes_room_than_has_to() -> None:
    observation = with_sizes(sized("w0", 3, stages("encode", "denoise")), sized("w1", 3, stages("denoise")))
    # without denoise, which has another home, there is room; encode has none and stays
    assert urgent({"w0": stages("decode"), "w1": stages("denoise")}, observation) == [
        evict("w0", "denoise"),
        load("w0", "decode"),
    ]


def test_a_load_waits_for_room_that_a_running_task_needs() -> None:
    busy = sized("w0", 3, stages("encode", "denoise"), "encode")
    targets = {"w0": stages("denoise", "decode"), "w1": stages("encode")}
    assert urgent(targets, with_sizes(busy, sized("w1", 3, stages("encode")))) == []


def test_a_last_home_that_jobs_need_makes_no_room_unless_none_is_planned() -> None:
    full, empty = sized("w0", 3, stages("encode", "denoise")), sized("w1", 3, frozenset())
    waiting = (job("a", 9.0),)
    targets = {"w0": stages("denoise", "decode"), "w1": stages("encode")}
    # w1 loads encode first
    observation = with_sizes(full, empty, jobs=waiting)
    assert moved(targets, observation) == [load("w1", "encode")]
    assert moved(targets, with_sizes(full, empty)) == [
        evict("w0", "encode"),
        load("w0", "decode"),
        load("w1", "encode"),
    ]
    # encode is to have no home at all
    alone = {"w0": stages("denoise", "decode")}
    assert moved(alone, with_sizes(full, jobs=waiting)) == [evict("w0", "encode"), load("w0", "decode")]


def test_what_is_on_its_way_counts_as_held() -> None:
    loading = replace(sized("w0", 3, stages("encode")), loading=stages("denoise"))
    assert moved({"w0": EVERY}, with_sizes(loading)) == []
    assert moved({"w0": EVERY}, with_sizes(replace(loading, memory_bytes=4))) == [load("w0", "decode")]


def test_as_much_is_loaded_as_fits() -> None:
    assert moved({"w0": EVERY}, with_sizes(sized("w0", 3, frozenset()))) == [load("w0", "encode", "denoise")]


def test_what_was_asked_for_is_seen_by_what_follows() -> None:
    observation = with_sizes(sized("w0", 3, stages("encode", "denoise")), sized("w1", 3, stages("encode")))
    after = carried_out(observation, [evict("w0", "encode"), load("w0", "decode")])
    assert after.workers[0].resident == LOOP
    assert after.workers[0].loading == stages("decode")
    assert after.workers[1] is observation.workers[1]
    assert carried_out(observation, []) is observation
