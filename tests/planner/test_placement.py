from planner import Observation, PlannerConfig, Reason
from planner.placement import co_located, pinned, summary
from tests.planner.values import EVERY, LOOP, MODELS, REST, stages, worker

SEEN = Observation(3.0, (), (worker("w0"), worker("w1")), MODELS)


def test_co_located_is_everything_everywhere() -> None:
    placement = co_located(SEEN)
    assert placement.stages == {"w0": EVERY, "w1": EVERY}
    assert placement.since_s == {"w0": 3.0, "w1": 3.0}
    assert (placement.changed_s, placement.reason) == (3.0, Reason.INITIAL_PLACEMENT)


def test_pinned_is_what_the_configuration_says_of_stages_that_there_are() -> None:
    placement = pinned(SEEN, PlannerConfig(pinned={"w0": ("decode", "unknown"), "gone": ("encode",)}))
    assert placement.stages == {"w0": stages("decode"), "w1": frozenset()}
    assert placement.reason is Reason.PINNED_PLACEMENT


def test_a_placement_in_one_line() -> None:
    held = {"w0": EVERY, "w1": EVERY, "w2": LOOP, "w3": REST, "w4": frozenset()}
    assert summary(held, MODELS) == "tiny: 2 x EDC, 1 x EC, 1 x D"
    assert summary({"w4": frozenset()}, MODELS) == "tiny: nowhere"
