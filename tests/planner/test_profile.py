import pytest

from planner import Profile, Shape, StageSample
from planner.profile import MEDIAN_SAMPLES
from tests.planner.values import SHAPE, TINY

UNGUIDED = Shape(512, 512, guided=False)


def of(
    stage: str, seconds: float, steps: int = 1, shape: Shape = SHAPE, warm_up: bool = False
) -> StageSample:
    return StageSample("tiny", stage, shape, steps, seconds, 0.0, warm_up)


def test_nothing_is_known_of_a_stage_that_was_never_seen() -> None:
    profile = Profile().with_samples([of("decode", 1.0)])
    assert profile.estimate_s(TINY, "encode", SHAPE, 4) is None
    assert profile.job_s(TINY, ("decode", "encode"), SHAPE, 4) is None


def test_a_loop_is_kept_per_step_and_other_stages_ignore_steps() -> None:
    profile = Profile().with_samples([of("denoise", 8.0, steps=4), of("decode", 1.5)])
    assert profile.estimate_s(TINY, "denoise", SHAPE, 10) == 20.0
    assert profile.estimate_s(TINY, "decode", SHAPE, 10) == 1.5
    assert profile.job_s(TINY, ("denoise", "decode"), SHAPE, 10) == 21.5


def test_one_slow_sample_does_not_move_the_median() -> None:
    profile = Profile().with_samples([of("decode", seconds) for seconds in (1.0, 90.0, 1.2)])
    assert profile.estimate_s(TINY, "decode", SHAPE, 1) == 1.2


def test_only_the_last_samples_count() -> None:
    half = MEDIAN_SAMPLES // 2 + 1
    profile = Profile().with_samples([of("decode", 9.0)] * 100 + [of("decode", 1.0)] * (half - 1))
    assert profile.estimate_s(TINY, "decode", SHAPE, 1) == 9.0
    assert profile.with_samples([of("decode", 1.0)]).estimate_s(TINY, "decode", SHAPE, 1) == 1.0


def test_warm_up_stands_in_until_a_real_sample_replaces_it() -> None:
    warm = Profile().with_samples([of("decode", 5.0, warm_up=True), of("decode", 7.0, warm_up=True)])
    assert warm.estimate_s(TINY, "decode", SHAPE, 1) == 6.0
    real = warm.with_samples([of("decode", 1.0)])
    assert real.estimate_s(TINY, "decode", SHAPE, 1) == 1.0
    later = real.with_samples([of("decode", 9.0, warm_up=True)])
    assert later.estimate_s(TINY, "decode", SHAPE, 1) == 1.0


def test_a_profile_does_not_change() -> None:
    before = Profile().with_samples([of("decode", 1.0)])
    before.with_samples([of("decode", 9.0)] * 5)
    assert before.estimate_s(TINY, "decode", SHAPE, 1) == 1.0
    assert before.with_samples([]) is before


@pytest.mark.parametrize(
    ("shape", "decode_s", "denoise_s"),
    [
        (Shape(1024, 1024), 4.0, 32.0),
        (Shape(256, 512), 0.5, 4.0),
        (Shape(512, 512, frames=9), 9.0, 72.0),
        (UNGUIDED, 1.0, 4.0),
        (Shape(1024, 1024, guided=False), 4.0, 16.0),
    ],
)
def test_unseen_shapes_scale_by_volume_and_passes(shape: Shape, decode_s: float, denoise_s: float) -> None:
    profile = Profile().with_samples([of("decode", 1.0), of("denoise", 8.0, steps=4)])
    assert profile.estimate_s(TINY, "decode", shape, 4) == decode_s
    assert profile.estimate_s(TINY, "denoise", shape, 4) == denoise_s


def test_a_guided_loop_costs_twice_the_unguided_one_that_is_known() -> None:
    profile = Profile().with_samples([of("denoise", 8.0, steps=4, shape=UNGUIDED)])
    assert profile.estimate_s(TINY, "denoise", SHAPE, 4) == 16.0


def test_the_nearest_shape_is_scaled_and_equal_guidance_decides_between_equals() -> None:
    profile = Profile().with_samples(
        [
            of("denoise", 100.0, shape=Shape(2048, 2048)),
            of("denoise", 3.0, shape=Shape(256, 256)),
            of("denoise", 2.0, shape=Shape(256, 256, guided=False)),
        ]
    )
    assert profile.estimate_s(TINY, "denoise", Shape(512, 256), 1) == 6.0
    assert profile.estimate_s(TINY, "denoise", Shape(512, 256, guided=False), 1) == 4.0
    assert profile.estimate_s(TINY, "denoise", Shape(1024, 2048), 1) == 50.0
