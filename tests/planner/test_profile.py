import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Profile, Shape, StageSample
from planner.measurements import Measurement, Measurements
from planner.profile import UNMEASURED_RESUME_S
from planner.stage_costs import MEDIAN_SAMPLES, TRUST_SAMPLES
from tests.planner.values import SHAPE, TINY

UNGUIDED = Shape(512, 512, guided=False)
SMALL, LARGE = Shape(256, 256), Shape(1024, 1024)


def of(
    stage: str,
    seconds: float,
    steps: int = 1,
    shape: Shape = SHAPE,
    warm_up: bool = False,
    *,
    degree: int = 1,
    batch: int = 1,
    device: str = "",
    peak_bytes: int | None = None,
) -> StageSample:
    return StageSample(
        "tiny",
        stage,
        shape,
        steps,
        seconds,
        0.0,
        warm_up,
        device=device,
        degree=degree,
        batch=batch,
        peak_bytes=peak_bytes,
    )


def measured(*seconds: tuple[Shape, float], device: str = "", stage: str = "denoise") -> Profile:
    """One job on one worker at each shape."""
    points = tuple(Measurement(stage=stage, shape=shape, seconds=s) for shape, s in seconds)
    return Profile().with_measured(Measurements(device=device, model="tiny", measured=points))


def seconds(
    profile: Profile, stage: str, shape: Shape = SHAPE, steps: int = 1, degree: int = 1, batch: int = 1
) -> float | None:
    return profile.stage_s("", TINY, stage, shape, steps, degree=degree, batch=batch)


def test_nothing_is_known_of_a_stage_that_was_never_seen() -> None:
    profile = Profile().with_samples([of("decode", 1.0)])
    assert seconds(profile, "encode") is None
    assert profile.stage_s("another device", TINY, "decode", SHAPE, 1) is None
    assert profile.job_s("", TINY, ("decode", "encode"), SHAPE, 4) is None
    assert profile.best_degree("", TINY, SHAPE) == 1
    assert profile.degrees("", TINY) == (1,)
    assert profile.peak_bytes("", TINY, "decode", SHAPE) is None
    assert profile.peak_bytes("", TINY, "encode", SHAPE) is None


def test_a_loop_is_kept_per_step_and_other_stages_ignore_steps() -> None:
    profile = Profile().with_samples([of("denoise", 8.0, steps=4), of("decode", 1.5)])
    assert seconds(profile, "denoise", steps=10) == 20.0
    assert seconds(profile, "decode", steps=10) == 1.5
    assert profile.job_s("", TINY, ("denoise", "decode"), SHAPE, 10) == 21.5


def test_one_slow_sample_does_not_move_the_median() -> None:
    profile = Profile().with_samples([of("decode", seconds) for seconds in (1.0, 90.0, 1.2)])
    assert seconds(profile, "decode") == 1.2


def test_only_the_last_samples_count() -> None:
    half = MEDIAN_SAMPLES // 2 + 1
    profile = Profile().with_samples([of("decode", 9.0)] * 100 + [of("decode", 1.0)] * (half - 1))
    assert seconds(profile, "decode") == 9.0
    assert seconds(profile.with_samples([of("decode", 1.0)]), "decode") == 1.0


def test_warm_up_stands_in_until_a_real_sample_replaces_it() -> None:
    warm = Profile().with_samples([of("decode", 5.0, warm_up=True), of("decode", 7.0, warm_up=True)])
    assert seconds(warm, "decode") == 6.0
    real = warm.with_samples([of("decode", 1.0)])
    assert seconds(real, "decode") == 1.0
    assert seconds(real.with_samples([of("decode", 9.0, warm_up=True)]), "decode") == 1.0


def test_a_warm_up_says_nothing_of_a_stage_that_was_measured_nor_of_other_shapes_once_one_ran() -> None:
    profile = measured((SHAPE, 1.0)).with_samples([of("denoise", 50.0, warm_up=True)] * 9)
    assert seconds(profile, "denoise") == 1.0
    ran = Profile().with_samples([of("decode", 9.0, warm_up=True), of("decode", 4.0, shape=LARGE)])
    assert seconds(ran, "decode", Shape(2048, 1024)) == pytest.approx(8.0)


def test_a_profile_does_not_change() -> None:
    before = Profile().with_samples([of("decode", 1.0)])
    before.with_samples([of("decode", 9.0)] * 5)
    assert seconds(before, "decode") == 1.0
    assert before.with_samples([]) is before


def test_what_was_worked_out_is_no_part_of_equality() -> None:
    profile, same = (Profile().with_samples([of("decode", 1.0)]) for _ in range(2))
    assert seconds(profile, "decode", LARGE) == 4.0
    assert profile == same


@pytest.mark.parametrize(
    ("shape", "decode_s", "denoise_s"),
    [
        (LARGE, 4.0, 32.0),
        (Shape(256, 512), 0.5, 4.0),
        (Shape(512, 512, frames=9), 9.0, 72.0),
        (UNGUIDED, 1.0, 4.0),
        (Shape(1024, 1024, guided=False), 4.0, 16.0),
    ],
)
def test_with_one_shape_others_scale_by_tokens_and_passes(
    shape: Shape, decode_s: float, denoise_s: float
) -> None:
    profile = Profile().with_samples([of("decode", 1.0), of("denoise", 8.0, steps=4)])
    assert seconds(profile, "decode", shape) == pytest.approx(decode_s)
    assert seconds(profile, "denoise", shape, 4) == pytest.approx(denoise_s)


def test_a_guided_loop_costs_twice_the_unguided_one_that_is_known() -> None:
    profile = Profile().with_samples([of("denoise", 8.0, steps=4, shape=UNGUIDED)])
    assert seconds(profile, "denoise", SHAPE, 4) == 16.0


def test_how_much_guidance_costs_is_taken_from_where_both_are_known() -> None:
    # 3 times at 512 px, so at 1024 too, though two passes would be twice
    profile = measured((SHAPE, 3.0), (LARGE, 12.0), (UNGUIDED, 1.0))
    assert seconds(profile, "denoise", Shape(1024, 1024, guided=False)) == pytest.approx(4.0)


def test_measured_shapes_are_as_measured_and_others_are_fitted() -> None:
    # 1 + 2 t over 512x512 = 1, but for the largest, which is a quarter above the line
    profile = measured((SMALL, 1.5), (SHAPE, 3.0), (LARGE, 11.25), stage="decode")
    assert seconds(profile, "decode", LARGE) == 11.25
    between = seconds(profile, "decode", Shape(512, 1024))
    assert between is not None
    assert 4.5 < between < 6.0
    fit = profile.fits("", "tiny", "decode")[True]
    assert fit.worst_error is not None
    assert fit.worst_error > 0.05
    assert profile.fits("", "tiny", "no-such") == {}


def test_degrees_are_factors_interpolated_over_log_tokens() -> None:
    points = [
        Measurement(stage="denoise", shape=SMALL, seconds=1.0),
        Measurement(stage="denoise", shape=LARGE, seconds=16.0),
        Measurement(stage="denoise", shape=SMALL, seconds=0.9, degree=2),
        Measurement(stage="denoise", shape=LARGE, seconds=8.0, degree=2),
        Measurement(stage="denoise", shape=LARGE, seconds=6.0, degree=4),
    ]
    profile = Profile().with_measured(Measurements(device="", model="tiny", measured=tuple(points)))
    assert profile.degrees("", TINY) == (1, 2, 4)
    # half way between 256 and 1024 px in log tokens: (.9 + .5) / 2 of 4 s
    assert seconds(profile, "denoise", degree=2) == pytest.approx(2.8)
    assert seconds(profile, "denoise", Shape(2048, 2048), degree=2) == pytest.approx(32.0)
    # known at one shape: the same part everywhere; guidance does not matter to the part
    assert seconds(profile, "denoise", degree=4) == pytest.approx(1.5)
    assert seconds(profile, "denoise", UNGUIDED, degree=4) == pytest.approx(0.75)
    # never measured, never offered
    assert seconds(profile, "denoise", degree=8) is None
    # speed-up over degree: 1.0 at (1024 px, 2), .56 at (256 px, 2), .67 at (1024 px, 4)
    assert [profile.best_degree("", TINY, shape) for shape in (SMALL, LARGE)] == [1, 2]


def test_batches_go_straight_between_those_measured_and_one_by_one_beyond() -> None:
    points = [
        Measurement(stage="denoise", shape=SHAPE, seconds=1.0),
        Measurement(stage="denoise", shape=SHAPE, seconds=1.2, batch=2),
        Measurement(stage="denoise", shape=SHAPE, seconds=2.0, batch=4),
        Measurement(stage="denoise", shape=SHAPE, seconds=0.5, degree=2),
    ]
    profile = Profile().with_measured(Measurements(device="", model="tiny", measured=tuple(points)))
    costs = [seconds(profile, "denoise", batch=batch) for batch in (1, 2, 3, 4, 5)]
    assert costs == pytest.approx([1.0, 1.2, 1.6, 2.0, 5.0])
    # both at once: as if one did not know of the other
    assert seconds(profile, "denoise", degree=2, batch=2) == pytest.approx(0.6)
    assert seconds(profile, "denoise", LARGE, batch=2) == pytest.approx(4.8)
    assert seconds(measured((SHAPE, 1.0)), "denoise", batch=3) == 3.0


def test_peak_bytes_are_the_most_that_was_measured_fitted_or_seen() -> None:
    points = [
        Measurement(stage="decode", shape=SMALL, seconds=1.0, peak_bytes=100),
        Measurement(stage="decode", shape=LARGE, seconds=1.0, peak_bytes=1600),
    ]
    profile = Profile().with_measured(Measurements(device="", model="tiny", measured=tuple(points)))
    assert profile.peak_bytes("", TINY, "decode", SMALL) == 100
    assert profile.peak_bytes("", TINY, "decode", SHAPE) == 400
    assert profile.peak_bytes("", TINY, "decode", SHAPE, batch=2) == 800
    assert profile.peak_bytes("", TINY, "decode", SHAPE, degree=2) is None
    seen = profile.with_samples([of("decode", 1.0, peak_bytes=n) for n in (450, 430)])
    assert seen.peak_bytes("", TINY, "decode", SHAPE) == 450
    alone = Profile().with_samples([of("decode", 1.0, peak_bytes=450)])
    assert alone.peak_bytes("", TINY, "decode", LARGE) == 1800


def test_a_few_samples_do_not_outvote_a_measurement_and_more_do() -> None:
    profile = measured((SHAPE, 1.0))
    assert TRUST_SAMPLES == 3
    costs = [seconds(profile.with_samples([of("denoise", 2.0)] * n), "denoise") for n in range(5)]
    assert costs == [1.0, 1.0, 1.0, 1.75, 2.0]


def test_samples_at_one_shape_correct_the_others_by_the_same_factor() -> None:
    profile = measured((SMALL, 1.0), (SHAPE, 4.0), (LARGE, 16.0))
    profile = profile.with_samples([of("denoise", 4.8, shape=SHAPE)] * 10)
    assert seconds(profile, "denoise", SMALL) == pytest.approx(1.2)
    assert seconds(profile, "denoise", LARGE) == pytest.approx(19.2)
    assert seconds(profile, "denoise", Shape(512, 1024)) == pytest.approx(9.6)


@pytest.mark.parametrize("wrong", [0.8, 1.2])
@pytest.mark.parametrize("seed", range(5))
def test_a_profile_that_is_off_by_a_fifth_is_right_to_a_twentieth_after_50_tasks(
    wrong: float, seed: int
) -> None:
    random_ = random.Random(seed)
    shapes = [Shape(side, side) for side in (256, 512, 768, 1024)]
    true_s = {shape: 0.02 + 1e-6 * shape.tokens for shape in shapes}
    profile = measured(*((shape, true_s[shape] * wrong) for shape in (*shapes[:2], shapes[3])))
    now_s = 0.0
    for _ in range(50):
        shape = random_.choice(shapes)
        took_s = 20 * true_s[shape] * random_.uniform(0.92, 1.08)
        now_s += took_s
        sample = StageSample("tiny", "denoise", shape, 20, took_s, now_s)
        profile = profile.with_samples([sample])
    for shape in shapes:
        expected_s = seconds(profile, "denoise", shape, 20)
        assert expected_s == pytest.approx(20 * true_s[shape], rel=0.05)


def test_kinds_of_device_have_costs_of_their_own() -> None:
    profile = measured((SHAPE, 1.0), device="slow").with_samples([of("denoise", 0.1, device="fast")])
    assert profile.stage_s("slow", TINY, "denoise", SHAPE, 1) == 1.0
    assert profile.stage_s("fast", TINY, "denoise", SHAPE, 1) == 0.1


def test_measured_anew_what_was_seen_goes_and_the_same_again_changes_nothing() -> None:
    profile = measured((SHAPE, 1.0)).with_samples([of("denoise", 2.0)] * 9 + [of("decode", 1.0)])
    known = profile.measurements["", "tiny"]
    assert profile.with_measured(known) is profile
    again = profile.with_measured(
        Measurements(
            device="", model="tiny", measured=(Measurement(stage="denoise", shape=SHAPE, seconds=3.0),)
        )
    )
    assert seconds(again, "denoise") == 3.0
    assert seconds(again, "decode") is None


def test_what_a_resume_costs_is_measured_or_no_small_guess() -> None:
    profile = Profile().with_measured(Measurements(device="", model="tiny", resume_s=0.2))
    assert profile.resume_s("", TINY) == 0.2
    assert profile.resume_s("another", TINY) == UNMEASURED_RESUME_S


def test_measurements_survive_json() -> None:
    point = Measurement(stage="denoise", shape=UNGUIDED, seconds=0.25, peak_bytes=7, degree=2, batch=4)
    known = Measurements(
        device="cpu",
        model="tiny",
        measured=(point,),
        weight_bytes={"denoise": 5},
        load_s={"denoise": 0.5},
        resume_s=0.01,
    )
    assert msgspec.json.decode(msgspec.json.encode(known), type=Measurements) == known


SHAPES = st.builds(Shape, st.sampled_from((64, 512)), st.sampled_from((64, 2048)), guided=st.booleans())
POSITIVE = st.floats(1e-6, 1e4)


@given(
    st.lists(
        st.builds(
            Measurement,
            stage=st.just("denoise"),
            shape=SHAPES,
            seconds=POSITIVE,
            peak_bytes=st.none() | st.integers(0, 10**12),
            degree=st.sampled_from((1, 2, 4)),
            batch=st.sampled_from((1, 2, 4)),
        ),
        max_size=8,
    ),
    st.lists(
        st.builds(
            StageSample,
            st.just("tiny"),
            st.just("denoise"),
            SHAPES,
            st.integers(1, 50),
            st.floats(0.0, 1e4),
            st.just(0.0),
            st.booleans(),
            degree=st.sampled_from((1, 2, 4)),
            batch=st.integers(1, 5),
            peak_bytes=st.none() | st.integers(0, 10**12),
        ),
        max_size=40,
    ),
    SHAPES,
    st.sampled_from((1, 2, 4, 8)),
    st.integers(1, 6),
)
def test_whatever_was_measured_and_seen_a_cost_is_unknown_or_a_number(
    points: list[Measurement], samples: list[StageSample], shape: Shape, degree: int, batch: int
) -> None:
    profile = Profile().with_measured(Measurements(device="", model="tiny", measured=tuple(points)))
    profile = profile.with_samples(samples)
    cost_s = seconds(profile, "denoise", shape, 7, degree, batch)
    assert cost_s is None or 0 <= cost_s < float("inf")
    assert cost_s == seconds(profile, "denoise", shape, 7, degree, batch)
    held = profile.peak_bytes("", TINY, "denoise", shape, degree=degree, batch=batch)
    assert held is None or held >= 0
    assert profile.best_degree("", TINY, shape) in profile.degrees("", TINY)
    if degree not in {1, *(p.degree for p in points), *(s.degree for s in samples)}:
        assert cost_s is None


def test_samples_that_tell_nothing_new_are_seen_to() -> None:
    profile = measured((SMALL, 0.3), (LARGE, 3.0))
    # the same but for the rounding of a clock
    same = profile.with_samples([of("denoise", 1.2 + 1e-13, steps=4, shape=SMALL)])
    assert same.is_same(profile)
    assert seconds(same, "denoise", SMALL) == 0.3
    shape_alone = same.with_samples([of("denoise", 1.0, shape=SMALL)] * 9)
    assert not shape_alone.is_same(same)
    assert seconds(shape_alone, "denoise", SMALL) == 1.0
    more_bytes = same.with_samples([of("denoise", 0.3, shape=SMALL, peak_bytes=7)])
    assert not more_bytes.is_same(same)
    assert more_bytes.peak_bytes("", TINY, "denoise", SMALL) == 7
    # without a measurement each sample is a point of the fit
    unmeasured = Profile().with_samples([of("denoise", 1.0)])
    assert not unmeasured.with_samples([of("denoise", 1.0)]).is_same(unmeasured)
    assert not profile.is_same(measured((SMALL, 0.3), (LARGE, 3.0)))


def test_encodes_that_were_shared_correct_what_is_expected_of_them() -> None:
    """Batches of two last twice as long as measured: what one costs is corrected by it too."""
    points = [Measurement(stage="encode", shape=SHAPE, seconds=s, batch=n) for n, s in ((1, 1.0), (2, 1.2))]
    profile = Profile().with_measured(Measurements(device="", model="tiny", measured=tuple(points)))
    seen = StageSample("tiny", "encode", SHAPE, 1, 2.4, 0.0, batch=2)
    profile = profile.with_samples([seen] * 50)
    assert seconds(profile, "encode", batch=2) == pytest.approx(2.4, rel=0.05)
    assert seconds(profile, "encode") == pytest.approx(2.0, rel=0.05)
    assert seconds(profile, "encode", LARGE, batch=2) == pytest.approx(2.0 * 1.2 * 4, rel=0.05)
