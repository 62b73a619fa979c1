"""When the placement changes, worked by hand. Two workers hold two of three parts each, unless said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from planner import (
    Evict,
    JobView,
    Load,
    ModelView,
    Observation,
    PlannerConfig,
    PlannerState,
    Profile,
    Reason,
    Shape,
    WakeAt,
    WorkerView,
    decide,
    initial_state,
)
from planner.measurements import Measurement, Measurements
from planner.types import Parts
from tests.planner.values import EVERY, LOOP, REST, SHAPE, TINY, sample, stages, worker

CONFIG = PlannerConfig(min_samples=4)
SIZED = replace(
    TINY,
    weight_bytes=dict.fromkeys(TINY.stages, 1),
    load_s=dict.fromkeys(TINY.stages, 0.5),
)
LARGE = Shape(1024, 1024)
NONE: frozenset[tuple[str, str]] = frozenset()


def profile(encode: float, denoise: float, decode: float) -> Profile:
    seconds = (("encode", encode), ("denoise", denoise), ("decode", decode))
    return Profile().with_samples([sample(stage, of_stage) for stage, of_stage in seconds])


def view(
    worker_id: str, memory_bytes: int | None = 2, resident: frozenset[tuple[str, str]] = NONE
) -> WorkerView:
    return replace(worker(worker_id, resident), memory_bytes=memory_bytes)


TWO = (view("w0"), view("w1"))


def seen(
    now_s: float,
    workers: tuple[WorkerView, ...] = TWO,
    jobs: tuple[JobView, ...] = (),
    models: dict[str, ModelView] | None = None,
) -> Observation:
    return Observation(now_s, jobs, workers, {"tiny": SIZED} if models is None else models)


def arrivals(first: int, n: int, at_s: float, shape: Shape = SHAPE) -> tuple[JobView, ...]:
    return tuple(
        JobView(f"job {first + i}", "tiny", shape, 4, TINY.stages, at_s, at_s + 999.0) for i in range(n)
    )


def placed(
    known: Profile, workers: tuple[WorkerView, ...] = TWO, config: PlannerConfig = CONFIG
) -> PlannerState:
    """At 0 s, with nothing asked for yet."""
    return decide(initial_state(config, known), seen(0.0, workers))[0]


def after_load(
    state: PlannerState,
    n: int,
    until_s: float,
    *,
    every_s: float = 1.0,
    workers: tuple[WorkerView, ...] = TWO,
) -> tuple[PlannerState, list[WakeAt]]:
    """`n` jobs come each `every_s`, from the next second on, and are gone at once."""
    now_s, wakes, came = state.review.next_s - 1.0, [], 0
    while now_s + every_s <= until_s:
        now_s += every_s
        jobs = arrivals(1000 * int(now_s * 10) + came, n, now_s)
        came += n
        state, effects = decide(state, seen(now_s, workers, jobs))
        wakes += [effect for effect in effects if isinstance(effect, WakeAt)]
        state, effects = decide(state, seen(now_s, workers))
        wakes += [effect for effect in effects if isinstance(effect, WakeAt)]
    return state, wakes


def stages_of(state: PlannerState) -> dict[str, frozenset[tuple[str, str]]]:
    assert state.placement is not None
    return dict(state.placement.stages)


def test_nothing_is_decided_without_workers() -> None:
    state, effects = decide(initial_state(CONFIG), seen(0.0, ()))
    assert state.placement is None
    assert effects == ()


def test_where_everything_fits_it_is_everywhere_and_stays_whatever_is_asked() -> None:
    roomy = (view("w0", None), view("w1", 3))
    state, effects = decide(initial_state(CONFIG), seen(0.0, roomy))
    assert [(e.worker, e.stages, e.reason) for e in effects if isinstance(e, Load)] == [
        ("w0", TINY.stages, Reason.INITIAL_PLACEMENT),
        ("w1", TINY.stages, Reason.INITIAL_PLACEMENT),
    ]
    assert state.placement is not None
    assert state.placement.detail == "first placement: tiny: 2 x EDC"
    for seconds in ((0.1, 3.0, 0.1), (3.0, 0.1, 0.1), (0.1, 0.1, 3.0)):
        loaded, wakes = after_load(placed(profile(*seconds), roomy), 1, 120.0, workers=roomy)
        assert (stages_of(loaded), wakes) == ({"w0": EVERY, "w1": EVERY}, [])


def test_memory_that_cannot_hold_the_model_splits_it_by_itself() -> None:
    # nothing is known: the loop takes most, as a rule
    state = placed(Profile())
    assert stages_of(state) == {"w0": stages("denoise", "decode"), "w1": stages("encode", "denoise")}
    assert state.placement is not None
    assert state.placement.reason is Reason.INITIAL_PLACEMENT
    assert state.placement.detail == "first placement: tiny: 1 x DC, 1 x ED"


def test_a_mix_that_another_split_serves_clearly_better_moves_stages() -> None:
    # decode takes 1.2 of 1.5 s: with DC + ED one worker decodes all, with DC + EC both do
    state, _ = after_load(placed(profile(0.1, 0.2, 1.2)), 1, 9.5)
    assert stages_of(state) == {"w0": stages("denoise", "decode"), "w1": stages("encode", "denoise")}
    state, _ = after_load(placed(profile(0.1, 0.2, 1.2)), 1, 20.0)
    assert stages_of(state) == {"w0": stages("denoise", "decode"), "w1": stages("encode", "decode")}
    placement = state.placement
    assert placement is not None
    assert placement.reason is Reason.MIX_SHIFTED
    assert placement.rate == pytest.approx(2 / 1.5, rel=0.15)
    assert "GPU-seconds a second are asked for, of which 0.9" in placement.detail
    assert placement.detail.endswith("tiny: 1 x DC, 1 x EC")
    # w0 kept what it had
    assert placement.since_s["w0"] == 0.0
    assert placement.since_s["w1"] == placement.changed_s > 9.5


def test_a_placement_lives_for_the_dwell_and_then_is_looked_at() -> None:
    _, wakes = after_load(placed(profile(0.1, 0.2, 1.2)), 1, 9.5)
    assert {wake.at_s for wake in wakes} == {10.0}
    assert {wake.reason for wake in wakes} == {Reason.PLACEMENT_REVIEW}


def test_a_worker_that_took_something_on_puts_no_review_off() -> None:
    state, _ = after_load(placed(profile(0.1, 0.2, 1.2)), 1, 9.5)
    assert state.placement is not None
    swapped = replace(state.placement, changed_s=9.0, reason=Reason.NEEDED_NOW)
    state = replace(state, review=replace(state.review, placement=swapped))
    state, _ = after_load(state, 1, 12.0)
    assert stages_of(state)["w1"] == stages("encode", "decode")


def test_too_few_jobs_since_the_last_change_change_nothing() -> None:
    few, wakes = after_load(placed(profile(0.1, 2.0, 12.0)), 1, 30.0, every_s=10.0)
    assert wakes == []
    many, _ = after_load(placed(profile(0.1, 2.0, 12.0)), 1, 60.0, every_s=10.0)
    assert stages_of(few)["w1"] == stages("encode", "denoise")
    assert stages_of(many)["w1"] == stages("encode", "decode")


def test_a_gain_below_the_margin_changes_nothing() -> None:
    # decode alone 1.05 of 2.0 s a worker: 0.95 of what two could do
    state, wakes = after_load(placed(profile(0.05, 0.9, 1.05)), 1, 120.0)
    assert stages_of(state)["w1"] == stages("encode", "denoise")
    assert wakes == []


def test_a_gain_that_does_not_pay_for_the_loads_changes_nothing() -> None:
    slow = {"tiny": replace(SIZED, load_s=dict.fromkeys(TINY.stages, 30.0))}
    loaded = (view("w0", 2, stages("denoise", "decode")), view("w1", 2, stages("encode", "denoise")))
    known = profile(0.1, 0.2, 1.2)

    def after(config: PlannerConfig) -> PlannerState:
        state = decide(initial_state(config, known), seen(0.0, models=slow))[0]
        for second in range(40):
            state, _ = decide(state, seen(float(second), loaded, arrivals(second, 1, float(second)), slow))
        return state

    # 0.83 times the demand of 1.5 becomes 1.33: over 60 s 45 GPU-seconds more, for a load of 30
    assert stages_of(after(CONFIG))["w1"] == stages("encode", "decode")
    assert stages_of(after(replace(CONFIG, horizon_s=30.0)))["w1"] == stages("encode", "denoise")


def test_more_than_twice_what_is_asked_for_is_no_gain() -> None:
    state, _ = after_load(placed(profile(0.01, 0.02, 0.12)), 1, 60.0)
    assert stages_of(state)["w1"] == stages("encode", "denoise")


def test_a_queue_is_demand_too() -> None:
    state = placed(profile(0.1, 0.2, 1.2))
    state, _ = after_load(state, 1, 16.0, every_s=3.0)
    assert stages_of(state)["w1"] == stages("encode", "denoise")
    waiting = tuple(replace(one, pending=("decode",), started=True) for one in arrivals(0, 60, 0.0))
    state, _ = decide(state, seen(20.0, TWO, waiting))
    assert stages_of(state)["w1"] == stages("encode", "decode")


def test_nothing_is_reviewed_with_that_part_off() -> None:
    off = replace(CONFIG, parts=Parts(places=False))
    state, wakes = after_load(placed(profile(0.1, 0.2, 1.2), config=off), 1, 60.0)
    assert stages_of(state)["w1"] == stages("encode", "denoise")
    assert wakes == []


def test_a_lost_worker_is_replaced_at_once_with_as_few_loads_as_possible() -> None:
    workers = (view("w0", 1), view("w1", 1), view("w2", 1), view("w3", 1))
    state = placed(Profile(), workers)
    first = stages_of(state)
    assert sorted(first.values(), key=sorted) == sorted(
        [stages("encode"), stages("decode"), LOOP, LOOP], key=sorted
    )
    lost = next(name for name, held in first.items() if held == stages("encode"))
    left = tuple(replace(each, resident=first[each.worker_id]) for each in workers if each.worker_id != lost)
    state, effects = decide(state, seen(1.0, left))
    (load,) = (effect for effect in effects if isinstance(effect, Load))
    assert (load.stages, load.reason) == (("encode",), Reason.WORKER_REPLACED)
    assert first[load.worker] == LOOP
    assert load.detail == f"{lost} left: tiny: 1 x C, 1 x D, 1 x E"
    assert sum(stages_of(state)[name] != first[name] for name in stages_of(state)) == 1
    # back, and empty: it gets what is most short, and nobody else moves
    held = stages_of(state)
    back = (*(replace(each, resident=held[each.worker_id]) for each in left), view(lost, 1))
    state, effects = decide(state, seen(2.0, back))
    assert stages_of(state) == {**held, lost: LOOP}


def test_a_fleet_that_was_lost_whole_is_placed_when_it_comes_back() -> None:
    state, effects = decide(placed(Profile()), seen(1.0, ()))
    assert effects == ()
    assert state.placement is not None
    assert (state.placement.stages, state.placement.homeless) == ({}, frozenset())
    assert decide(state, seen(1.5, ()))[1] == ()
    state, effects = decide(state, seen(2.0, TWO))
    assert {e.reason for e in effects if isinstance(e, Load)} == {Reason.WORKER_REPLACED}
    assert stages_of(state) == stages_of(placed(Profile()))


def test_a_worker_that_restarted_between_two_calls_gets_what_it_had() -> None:
    state = placed(Profile())
    reborn = (view("w0", 2, stages("denoise", "decode")), view("w1"))
    _, effects = decide(state, seen(1.0, reborn))
    assert [(e.worker, e.stages) for e in effects if isinstance(e, Load)] == [("w1", ("encode", "denoise"))]


def test_a_stage_that_failed_is_placed_elsewhere() -> None:
    state = placed(Profile())
    failed = (replace(view("w0"), failed=stages("decode")), view("w1"))
    state, _ = decide(state, seen(1.0, failed))
    assert state.placement is not None
    assert state.placement.reason is Reason.STAGE_FAILED
    assert state.placement.detail.startswith("decode of tiny failed on w0: ")
    assert stages_of(state) == {"w0": stages("encode", "denoise"), "w1": stages("denoise", "decode")}
    after, _ = decide(state, seen(2.0, failed))
    assert after.placement is state.placement


def test_no_worker_that_can_hold_a_stage_is_a_reason_and_not_a_loop() -> None:
    huge = {"tiny": replace(SIZED, weight_bytes={"encode": 1, "denoise": 9, "decode": 1})}
    state, effects = decide(initial_state(CONFIG), seen(0.0, TWO, models=huge))
    assert stages_of(state) == {"w0": REST, "w1": REST}
    placement = state.placement
    assert placement is not None
    assert placement.reason is Reason.NO_ROOM
    assert placement.homeless == placement.impossible == LOOP
    assert placement.detail == (
        "first placement: tiny: 2 x EC; no room for denoise of tiny (needs 9 bytes, a worker has at most 2)"
    )
    assert sum(isinstance(effect, Load) for effect in effects) == 2
    held = tuple(replace(each, resident=REST) for each in TWO)
    for second in range(1, 40):
        state, effects = decide(state, seen(float(second), held, arrivals(second, 1, float(second)), huge))
        assert state.placement is placement
        assert not any(isinstance(effect, Load | Evict) for effect in effects)


def peaks(**of_large: int) -> Profile:
    """Beside the weights nothing at the usual shape, and that much at the large one."""
    measured = tuple(
        Measurement(stage=stage, shape=shape, seconds=1.0, peak_bytes=peak if shape == LARGE else 0)
        for stage, peak in of_large.items()
        for shape in (SHAPE, LARGE)
    )
    return Profile().with_measured(Measurements(device="", model="tiny", measured=measured))


def test_larger_shapes_that_need_more_memory_move_stages_at_once() -> None:
    known = peaks(encode=0, denoise=0, decode=2)
    three = (view("w0", 3), view("w1", 3))
    state = decide(initial_state(CONFIG, known), seen(0.0, three, arrivals(0, 1, 0.0)))[0]
    assert stages_of(state) == {"w0": EVERY, "w1": EVERY}
    state, _ = decide(state, seen(0.5, three, arrivals(1, 1, 0.5, LARGE)))
    # decode has only room alone
    placement = state.placement
    assert placement is not None
    assert sorted(stages_of(state).values(), key=sorted) == sorted(
        [stages("decode"), stages("encode", "denoise")], key=sorted
    )
    assert placement.reason is Reason.NO_ROOM
    assert placement.detail == (
        "more memory is needed than there was when it was placed: tiny: 1 x ED, 1 x C"
    )
    # and it stays that way while small ones come, for ten windows of 30 s
    for second in range(1, 300):
        state, _ = decide(state, seen(float(second), three, arrivals(second + 1, 1, float(second))))
    assert state.placement is placement
    for second in range(300, 310):
        state, _ = decide(state, seen(float(second), three, arrivals(second + 1, 1, float(second))))
    assert stages_of(state) == {"w0": EVERY, "w1": EVERY}
    assert state.placement is not None
    assert state.placement.reason is Reason.MIX_SHIFTED
    assert state.placement.detail == "everything has room on every worker: tiny: 2 x EDC"


def test_before_anything_is_asked_the_largest_shape_that_was_measured_counts() -> None:
    three = (view("w0", 3), view("w1", 3))
    state = placed(peaks(encode=0, denoise=0, decode=2), three)
    assert sorted(len(held) for held in stages_of(state).values()) == [1, 2]
    # until enough was asked to know better
    state, _ = after_load(state, 1, 9.5, workers=three)
    assert sorted(len(held) for held in stages_of(state).values()) == [1, 2]
    state, _ = after_load(state, 1, 12.0, workers=three)
    assert stages_of(state) == {"w0": EVERY, "w1": EVERY}


def test_a_loop_that_fits_at_a_higher_degree_only_is_placed_for_that() -> None:
    measured = tuple(
        Measurement(stage="denoise", shape=SHAPE, seconds=1.0 / degree, peak_bytes=peak, degree=degree)
        for degree, peak in ((1, 5), (2, 2))
    )
    known = Profile().with_measured(Measurements(device="", model="tiny", measured=measured))
    state = placed(known, (view("w0", 3), view("w1", 3)))
    assert {name for name, held in stages_of(state).items() if held >= LOOP}


def test_a_model_that_joins_goes_where_there_is_room_and_nothing_else_moves() -> None:
    other = replace(SIZED, model="other")
    state = placed(Profile(), (view("w0", 3), view("w1", 5)))
    assert stages_of(state) == {"w0": EVERY, "w1": EVERY}
    models = {"tiny": SIZED, "other": other}
    state, _ = decide(state, seen(1.0, (view("w0", 3, EVERY), view("w1", 5, EVERY)), models=models))
    assert state.placement is not None
    assert state.placement.reason in (Reason.MODELS_CHANGED, Reason.NO_ROOM)
    held = stages_of(state)
    assert {stage for keys in held.values() for model, stage in keys if model == "other"} == set(TINY.stages)
    assert {stage for keys in held.values() for model, stage in keys if model == "tiny"} == set(TINY.stages)


def test_pinned_is_exactly_what_the_configuration_says_and_stays() -> None:
    config = PlannerConfig(pinned={"w0": ("denoise",), "w1": ("encode",)})
    three = (*TWO, view("w2"))
    state, effects = decide(initial_state(config), seen(0.0, three))
    assert [(e.worker, e.stages, e.reason) for e in effects if isinstance(e, Load)] == [
        ("w0", ("denoise",), Reason.PINNED_PLACEMENT),
        ("w1", ("encode",), Reason.PINNED_PLACEMENT),
    ]
    failed = (replace(view("w0"), failed=LOOP), view("w1"), view("w2"))
    after, _ = decide(state, seen(1.0, failed, arrivals(0, 50, 1.0)))
    assert after.placement is state.placement
    state, effects = decide(state, seen(2.0, (view("w1"),)))
    assert stages_of(state) == {"w1": stages("encode")}


seconds = st.sampled_from((0.02, 0.1, 0.5, 2.0))


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    costs=st.tuples(seconds, seconds, seconds),
    weights=st.tuples(*(st.integers(1, 3) for _ in range(3))),
    bound=st.integers(2, 7),
    n_workers=st.integers(2, 6),
    n_jobs=st.integers(1, 4),
)
def test_a_constant_mix_is_placed_once_and_then_left_alone(
    costs: tuple[float, float, float], weights: tuple[int, ...], bound: int, n_workers: int, n_jobs: int
) -> None:
    models = {"tiny": replace(SIZED, weight_bytes=dict(zip(TINY.stages, weights, strict=True)))}
    workers = tuple(view(f"w{i}", bound) for i in range(n_workers))
    state = initial_state(CONFIG, profile(*costs))
    changes = []
    for look in range(1000):
        now_s = 2.0 * look
        before = state.placement
        state, _ = decide(state, seen(now_s, workers, arrivals(n_jobs * look, n_jobs, now_s), models))
        if state.placement is not before:
            changes.append(now_s)
    # at first, and when the mix is known; the last look that changed something is long ago
    assert len(changes) <= 3
    assert changes[-1] <= 100.0
    assert state.placement is not None
    for held in state.placement.stages.values():
        assert sum(models["tiny"].weight_bytes[stage] for _, stage in held) <= bound
