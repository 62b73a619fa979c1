import pytest

from planner import SLO_SCALE, UNPROFILED_S, Priority, Profile, default_deadline_s
from planner.deadline import alone_s
from planner.measurements import Measurement, Measurements
from tests.planner.values import SHAPE, TINY, sample

PROFILE = Profile().with_samples([sample("encode", 1.0), sample("denoise", 8.0), sample("decode", 1.0)])


def test_the_client_s_own_bound_comes_before_everything() -> None:
    assert default_deadline_s(PROFILE, {""}, TINY, SHAPE, 4, 100.0, 1500.0, "batch") == 101.5
    assert default_deadline_s(Profile(), {""}, TINY, SHAPE, 4, 100.0, 0.0) == 100.0


@pytest.mark.parametrize(
    ("priority", "deadline_s"), [("interactive", 115.0), ("standard", 125.0), ("batch", 300.0)]
)
def test_else_the_time_alone_is_scaled_by_priority(priority: Priority, deadline_s: float) -> None:
    assert default_deadline_s(PROFILE, {""}, TINY, SHAPE, 4, 100.0, None, priority) == deadline_s


def test_standard_is_the_default_and_steps_count() -> None:
    assert default_deadline_s(PROFILE, {""}, TINY, SHAPE, 8, 0.0, None) == SLO_SCALE["standard"] * 18.0


def test_only_the_stages_that_are_needed_count() -> None:
    deadline_s = default_deadline_s(PROFILE, {""}, TINY, SHAPE, 4, 0.0, None, stages=("denoise", "decode"))
    assert deadline_s == SLO_SCALE["standard"] * 9.0


def test_a_model_that_was_never_run_gets_a_generous_constant() -> None:
    unknown_decode = Profile().with_samples([sample("encode", 1.0), sample("denoise", 8.0)])
    assert (
        default_deadline_s(unknown_decode, {""}, TINY, SHAPE, 4, 7.0, None, "interactive")
        == 7.0 + UNPROFILED_S
    )


def measured(device: str, *denoise_s: tuple[int, float]) -> Measurements:
    """Encode and decode in a second each, a step in so many seconds by degree."""
    rest = [Measurement(stage=stage, shape=SHAPE, seconds=1.0) for stage in ("encode", "decode")]
    loop = [Measurement(stage="denoise", shape=SHAPE, seconds=s, degree=degree) for degree, s in denoise_s]
    return Measurements(device=device, model="tiny", measured=(*rest, *loop))


def test_the_time_alone_is_at_the_largest_degree_that_is_worth_its_workers() -> None:
    # speed-up over degree: 0.95 at 2, 0.8 at 4, 0.6 at 8
    profile = Profile().with_measured(measured("gpu", (1, 7.6), (2, 4.0), (4, 2.375), (8, 1.6)))
    assert alone_s(profile, {"gpu"}, TINY, SHAPE, 4, TINY.stages) == 2.0 + 4 * 2.375
    assert default_deadline_s(profile, {"gpu"}, TINY, SHAPE, 4, 0.0, None) == 2.5 * 11.5


def test_the_fastest_kind_of_device_that_is_known_counts() -> None:
    profile = Profile().with_measured(measured("slow", (1, 9.0))).with_measured(measured("fast", (1, 2.0)))
    assert alone_s(profile, {"slow", "fast", "unknown"}, TINY, SHAPE, 4, TINY.stages) == 10.0
    assert alone_s(profile, {"slow", "unknown"}, TINY, SHAPE, 4, TINY.stages) == 38.0
    assert alone_s(profile, set(), TINY, SHAPE, 4, TINY.stages) is None
