from planner import Evict, Load, ModelView, Observation, Placement, Reason, Role
from planner.residency import evictions, loads
from tests.planner.values import EVERY, LOOP, MODELS, REST, job, stages, worker

SPLIT = {"w0": REST, "w1": LOOP}
PLACEMENT = Placement(
    roles={"w0": Role.REST, "w1": Role.LOOP}, changed_s=0.0, reason=Reason.MIX_SHIFTED, detail="why"
)


def seen(*workers: object, models: object = MODELS) -> Observation:
    return Observation(0.0, (job("a", 1.0),), workers, models)  # type: ignore[arg-type]


def evict(worker_id: str, *names: str) -> Evict:
    return Evict(worker=worker_id, model="tiny", stages=names, reason=Reason.MIX_SHIFTED, detail="why")


def test_what_is_missing_is_asked_for_once_in_the_order_of_the_graph() -> None:
    observation = seen(worker("w1", frozenset()), worker("w0", frozenset()))

    assert loads(PLACEMENT, SPLIT, observation) == [
        Load(worker="w0", model="tiny", stages=("encode", "decode"), reason=Reason.MIX_SHIFTED, detail="why"),
        Load(worker="w1", model="tiny", stages=("denoise",), reason=Reason.MIX_SHIFTED, detail="why"),
    ]


def test_what_is_resident_or_loading_is_not_asked_for() -> None:
    observation = seen(worker("w0", stages("encode"), loading=stages("decode")), worker("w1", EVERY))
    assert loads(PLACEMENT, SPLIT, observation) == []


def test_each_model_is_loaded_for_itself() -> None:
    models = {**MODELS, "video": ModelView("video", ("loop",), "loop")}
    targets = {"w0": REST, "w1": LOOP | stages("loop", model="video")}
    effects = loads(PLACEMENT, targets, seen(worker("w0", REST), worker("w1", frozenset()), models=models))
    assert [(e.worker, e.model, e.stages) for e in effects] == [
        ("w1", "tiny", ("denoise",)),
        ("w1", "video", ("loop",)),
    ]


def test_stages_with_another_ready_home_are_evicted() -> None:
    assert evictions(PLACEMENT, SPLIT, seen(worker("w0"), worker("w1"))) == [
        evict("w0", "denoise"),
        evict("w1", "encode", "decode"),
    ]


def test_a_home_that_is_still_loading_is_none() -> None:
    observation = seen(worker("w0"), worker("w1", stages("encode", "decode"), loading=LOOP))
    assert evictions(PLACEMENT, SPLIT, observation) == [evict("w1", "encode", "decode")]


def test_a_worker_loses_all_unplaced_stages_of_a_model_or_none_yet() -> None:
    observation = seen(worker("w0", stages("encode"), loading=stages("decode")), worker("w1"))
    assert evictions(PLACEMENT, SPLIT, observation) == []


def test_a_copy_on_a_worker_that_is_to_lose_it_too_is_no_home() -> None:
    targets = {"w0": REST, "w1": REST, "w2": LOOP}
    observation = seen(worker("w0"), worker("w1"), worker("w2", frozenset(), loading=LOOP))
    assert evictions(PLACEMENT, targets, observation) == []


def test_nothing_is_evicted_that_the_running_task_still_needs() -> None:
    needs_decode = seen(worker("w0"), worker("w1", busy_with=("denoise", "decode")))
    assert evictions(PLACEMENT, SPLIT, needs_decode) == [evict("w0", "denoise")]
    needs_denoise = seen(worker("w0"), worker("w1", busy_with=("denoise",)))
    assert evictions(PLACEMENT, SPLIT, needs_denoise) == [
        evict("w0", "denoise"),
        evict("w1", "encode", "decode"),
    ]


def test_a_stage_that_no_target_holds_stays() -> None:
    assert evictions(PLACEMENT, {"w0": REST}, seen(worker("w0", EVERY))) == []
