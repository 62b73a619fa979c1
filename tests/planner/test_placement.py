import pytest

from planner import ModelView, Placement, PlannerConfig, Reason, Role
from planner.placement import assign_roles, n_loop_workers, targets_of
from planner.review import past_boundary
from tests.planner.values import EVERY, LOOP, MODELS, REST, stages, worker


@pytest.mark.parametrize(
    ("share", "n_workers", "n_loop"),
    [
        (0.0, 2, 1),
        (0.74, 2, 1),
        (0.75, 2, 2),
        (1.0, 2, 2),
        (0.5, 1, 1),
        (0.0, 1, 1),
        (0.62, 4, 2),
        (0.63, 4, 3),
        (0.87, 4, 3),
        (0.88, 4, 4),
    ],
)
def test_workers_for_the_loop_are_its_share_rounded_and_at_least_one(
    share: float, n_workers: int, n_loop: int
) -> None:
    assert n_loop_workers(share, n_workers) == n_loop


@pytest.mark.parametrize(
    ("share", "n_loop", "n_workers", "past"),
    [
        (0.76, 2, 2, False),
        (0.72, 2, 2, False),
        (0.69, 2, 2, True),
        (0.78, 1, 2, False),
        (0.81, 1, 2, True),
        (0.10, 1, 2, False),
        (0.05, 1, 4, False),
        (0.60, 3, 4, False),
        (0.57, 3, 4, True),
        (0.10, 3, 4, True),
        # boundary 0.96875, margin capped at a quarter of 1 / 16: reachable at the end of a large fleet
        (0.98, 15, 16, False),
        (0.99, 15, 16, True),
        (0.5, 1, 1, False),
    ],
)
def test_the_share_must_be_clearly_past_the_boundary(
    share: float, n_loop: int, n_workers: int, past: bool
) -> None:
    assert past_boundary(share, n_loop, n_workers, 0.05) is past


def test_co_located_when_all_workers_run_the_loop() -> None:
    assert assign_roles(2, [worker("w0"), worker("w1")], MODELS) == {"w0": Role.EVERY, "w1": Role.EVERY}
    assert assign_roles(1, [worker("w0")], MODELS) == {"w0": Role.EVERY}


def test_between_equals_the_lower_ids_become_auxiliary() -> None:
    fleet = [worker("w2"), worker("w1"), worker("w0")]
    assert assign_roles(2, fleet, MODELS) == {"w0": Role.REST, "w1": Role.LOOP, "w2": Role.LOOP}
    assert assign_roles(1, fleet, MODELS) == {"w0": Role.REST, "w1": Role.REST, "w2": Role.LOOP}


def test_the_auxiliary_worker_is_the_one_with_the_fewest_loads_to_do() -> None:
    fleet = [worker("w0", LOOP), worker("w1", stages("encode")), worker("w2", REST)]
    assert assign_roles(2, fleet, MODELS) == {"w2": Role.REST, "w0": Role.LOOP, "w1": Role.LOOP}
    under_way = [worker("w0", frozenset()), worker("w1", frozenset(), loading=REST)]
    assert assign_roles(1, under_way, MODELS) == {"w1": Role.REST, "w0": Role.LOOP}
    # both would have to load the loop stage, but w1 has less of the rest to lose
    mixed = [worker("w0", EVERY), worker("w1", LOOP)]
    assert assign_roles(1, mixed, MODELS) == {"w0": Role.REST, "w1": Role.LOOP}


def test_a_role_means_the_same_for_every_model() -> None:
    models = {**MODELS, "video": ModelView("video", ("text", "loop", "decode"), "loop")}
    placement = Placement(
        roles={"a": Role.EVERY, "b": Role.LOOP, "c": Role.REST, "d": Role.PINNED, "e": Role.PINNED},
        changed_s=0.0,
        reason=Reason.INITIAL_PLACEMENT,
        detail="",
    )
    targets = targets_of(placement, PlannerConfig(pinned={"d": ("decode", "unknown")}), models)
    assert targets == {
        "a": EVERY | stages("text", "loop", "decode", model="video"),
        "b": LOOP | stages("loop", model="video"),
        "c": REST | stages("text", "decode", model="video"),
        "d": stages("decode") | stages("decode", model="video"),
        "e": frozenset(),
    }
