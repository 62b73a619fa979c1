from planner import (
    Evict,
    Load,
    Observation,
    PlannerConfig,
    PlannerState,
    Reason,
    Role,
    StageSample,
    WakeAt,
    WorkerView,
    decide,
    initial_state,
)
from tests.planner.values import EVERY, MODELS, samples, worker

CONFIG = PlannerConfig()
TWO = (worker("w0"), worker("w1"))
CO_LOCATED = {"w0": Role.EVERY, "w1": Role.EVERY}
SPLIT = {"w0": Role.REST, "w1": Role.LOOP}


def seen(
    now_s: float, workers: tuple[WorkerView, ...] = TWO, finished: tuple[StageSample, ...] = ()
) -> Observation:
    return Observation(now_s, (), workers, MODELS, finished)


def co_located(workers: tuple[WorkerView, ...] = TWO, config: PlannerConfig = CONFIG) -> PlannerState:
    """Placed at 0 s, nothing seen since."""
    return decide(initial_state(config), seen(0.0, workers))[0]


def after(state: PlannerState, now_s: float, denoise_share: float, n: int = 6) -> PlannerState:
    """Then `n` pairs of stages with that share end at `now_s`."""
    return decide(state, seen(now_s, finished=samples(denoise_share, n, [now_s])))[0]


def roles(state: PlannerState) -> object:
    assert state.placement is not None
    return state.placement.roles


def test_nothing_is_decided_without_workers() -> None:
    state, effects = decide(initial_state(CONFIG), seen(0.0, ()))
    assert state.placement is None
    assert effects == ()


def test_at_first_every_worker_holds_every_stage() -> None:
    state, effects = decide(initial_state(CONFIG), seen(0.0, (worker("w0", frozenset()), worker("w1"))))
    assert roles(state) == CO_LOCATED
    assert effects == (
        Load(
            worker="w0",
            model="tiny",
            stages=("encode", "denoise", "decode"),
            reason=Reason.INITIAL_PLACEMENT,
            detail="first placement: every worker holds every stage",
        ),
    )


def test_a_shifted_mix_changes_the_placement_and_says_why() -> None:
    finished = samples(0.62, 6, [12.0])
    state, effects = decide(co_located(), seen(12.0, finished=finished))
    assert roles(state) == SPLIT
    assert state.placement is not None
    assert state.placement.reason is Reason.MIX_SHIFTED
    assert state.placement.detail == (
        "denoise took 62 % of 6.0 GPU-seconds in the last 30 s: 1 of 2 workers denoise, was 2"
    )
    assert [(e.worker, e.stages) for e in effects if isinstance(e, Evict)] == [
        ("w0", ("denoise",)),
        ("w1", ("encode", "decode")),
    ]


def test_shares_near_the_boundary_change_nothing_in_either_direction() -> None:
    assert roles(after(co_located(), 12.0, 0.72)) == CO_LOCATED
    split = after(co_located(), 12.0, 0.62)
    assert roles(after(split, 60.0, 0.78)) == SPLIT
    assert roles(after(split, 60.0, 0.82)) == CO_LOCATED


def test_too_few_samples_since_the_last_change_change_nothing() -> None:
    assert roles(after(co_located(), 12.0, 0.2, n=5)) == CO_LOCATED
    split = after(co_located(), 12.0, 0.62)
    assert roles(after(split, 60.0, 0.99, n=5)) == SPLIT
    assert roles(after(split, 60.0, 0.99, n=6)) == CO_LOCATED


def test_a_placement_lives_for_the_dwell_and_the_review_is_due_right_after() -> None:
    state, effects = decide(co_located(), seen(9.0, finished=samples(0.5, 6, [9.0])))
    assert roles(state) == CO_LOCATED
    assert effects == (WakeAt(at_s=10.0, reason=Reason.PLACEMENT_REVIEW),)
    state, effects = decide(state, seen(10.0))
    assert roles(state) == SPLIT
    assert not any(isinstance(effect, WakeAt) for effect in effects)


def test_nothing_to_review_means_no_wake_up() -> None:
    for share, n in ((0.9, 6), (0.72, 6), (0.5, 5)):
        assert decide(co_located(), seen(9.0, finished=samples(share, n, [9.0])))[1] == ()


def test_one_worker_always_holds_everything() -> None:
    one = (worker("w0"),)
    state, effects = decide(co_located(one), seen(12.0, one, samples(0.1, 20, [12.0])))
    assert roles(state) == {"w0": Role.EVERY}
    assert effects == ()


def test_a_lost_worker_is_replaced_at_once() -> None:
    split = after(co_located(), 12.0, 0.62)
    survivor = (worker("w1", frozenset({("tiny", "denoise")})),)
    state, effects = decide(split, seen(12.5, survivor))
    assert effects == (
        Load(
            worker="w1",
            model="tiny",
            stages=("encode", "decode"),
            reason=Reason.WORKER_REPLACED,
            detail="w0 left: 1 of 1 workers denoise, was 1",
        ),
    )
    back = (worker("w0", frozenset()), worker("w1", EVERY))
    state, effects = decide(state, seen(13.0, back))
    # one load makes w0 the denoiser, two would make it auxiliary again
    assert roles(state) == {"w0": Role.LOOP, "w1": Role.REST}
    assert [(type(e), e.worker, e.stages) for e in effects if isinstance(e, Load | Evict)] == [
        (Load, "w0", ("denoise",))
    ]


def test_without_enough_samples_the_last_share_places_a_changed_fleet() -> None:
    split = after(co_located(), 12.0, 0.62)
    forgotten = PlannerState(config=CONFIG, mix=initial_state(CONFIG).mix, placement=split.placement)
    three = (*TWO, worker("w2"))
    state, _ = decide(forgotten, seen(100.0, three))
    assert roles(state) == {"w0": Role.REST, "w1": Role.LOOP, "w2": Role.LOOP}
    state, _ = decide(co_located(), seen(1.0, three))
    assert roles(state) == {"w0": Role.EVERY, "w1": Role.EVERY, "w2": Role.EVERY}


def test_a_changed_fleet_is_placed_by_the_mix_that_was_observed_without_waiting() -> None:
    state = after(co_located(), 5.0, 0.5)
    assert roles(state) == CO_LOCATED
    state, _ = decide(state, seen(6.0, (*TWO, worker("w2"))))
    assert roles(state) == {"w0": Role.REST, "w1": Role.LOOP, "w2": Role.LOOP}


def test_another_worker_in_place_of_one_restarts_the_dwell() -> None:
    state = co_located()
    swapped = (worker("w0"), worker("w2"))
    state, _ = decide(state, seen(8.0, swapped))
    assert state.placement is not None
    assert state.placement.detail == "w2 joined and w1 left: 2 of 2 workers denoise, was 2"
    state, effects = decide(state, seen(12.0, swapped, samples(0.5, 6, [12.0])))
    assert effects == (WakeAt(at_s=18.0),)


def test_a_fleet_that_was_lost_whole_is_placed_when_it_comes_back() -> None:
    state, effects = decide(co_located(), seen(1.0, ()))
    assert effects == ()
    # what ended before the last worker died is told when none is left, and is no reason to place anything
    state, effects = decide(state, seen(1.5, (), samples(0.5, 6, [1.4])))
    assert effects == ()
    state, effects = decide(state, seen(2.0, (worker("w1", frozenset()),)))
    assert [(e.worker, e.reason) for e in effects if isinstance(e, Load)] == [("w1", Reason.WORKER_REPLACED)]


def test_a_worker_that_restarted_between_two_calls_gets_what_the_target_says() -> None:
    split = after(co_located(), 12.0, 0.62)
    reborn = (worker("w0", frozenset()), worker("w1", frozenset({("tiny", "denoise")})))
    _, effects = decide(split, seen(12.5, reborn))
    assert [(e.worker, e.stages) for e in effects if isinstance(e, Load)] == [("w0", ("encode", "decode"))]


def test_pinned_is_exactly_what_the_configuration_says_and_stays() -> None:
    config = PlannerConfig(pinned={"w0": ("denoise",), "w1": ("encode",)})
    _, effects = decide(
        initial_state(config), seen(0.0, tuple(worker(name, frozenset()) for name in ("w0", "w1", "w2")))
    )
    assert [(e.worker, e.stages, e.reason) for e in effects if isinstance(e, Load)] == [
        ("w0", ("denoise",), Reason.PINNED_PLACEMENT),
        ("w1", ("encode",), Reason.PINNED_PLACEMENT),
    ]
    pinned = co_located(config=config)
    assert roles(after(pinned, 60.0, 0.1, n=20)) == {"w0": Role.PINNED, "w1": Role.PINNED}
    _, effects = decide(pinned, seen(1.0, (worker("w1", frozenset()),)))
    assert [(e.worker, e.stages, e.reason) for e in effects if isinstance(e, Load)] == [
        ("w1", ("encode",), Reason.PINNED_PLACEMENT)
    ]
