import pytest

from planner import Mix
from tests.planner.values import MODELS, sample


def test_the_share_is_of_gpu_seconds_and_warm_up_counts_for_nothing() -> None:
    mix = Mix(30.0, 1).advanced(
        (
            sample("encode", 1.0, 1.0),
            sample("denoise", 6.0, 2.0),
            sample("decode", 1.0, 3.0),
            sample("denoise", 99.0, 3.0, warm_up=True),
        ),
        4.0,
    )
    observed = mix.loop_share(MODELS, 4.0)
    assert observed is not None
    assert (observed.share, observed.total_s, observed.span_s) == (0.75, 8.0, 30.0)
    assert mix.seconds == {("tiny", "encode"): 1.0, ("tiny", "denoise"): 6.0, ("tiny", "decode"): 1.0}


def test_samples_leave_the_window_by_their_end_whatever_their_order() -> None:
    mix = Mix(10.0, 1).advanced((sample("decode", 1.0, 8.0), sample("denoise", 1.0, 2.0)), 8.0)
    assert mix.seconds.keys() == {("tiny", "denoise"), ("tiny", "decode")}
    assert mix.advanced((), 11.9) is mix
    assert mix.advanced((), 12.0).seconds.keys() == {("tiny", "decode")}


def test_the_window_reaches_further_back_for_the_samples_that_a_share_needs() -> None:
    mix = Mix(10.0, 2).advanced(tuple(sample("denoise", 1.0, float(end)) for end in range(5)), 100.0)
    assert [kept.ended_s for kept in mix.samples] == [3.0, 4.0]
    observed = mix.loop_share(MODELS, 100.0)
    assert observed is not None
    assert observed.span_s == 97.0


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_samples_have_no_share(n: int) -> None:
    mix = Mix(10.0, 3).advanced((sample("denoise", 1.0),) * n, 1.0)
    assert mix.loop_share(MODELS, 1.0) is None


def test_models_that_are_not_served_and_stages_that_cost_nothing_have_no_share() -> None:
    mix = Mix(10.0, 1).advanced((sample("denoise", 1.0),), 1.0)
    assert mix.loop_share({}, 1.0) is None
    assert Mix(10.0, 1).advanced((sample("denoise", 0.0),), 1.0).loop_share(MODELS, 1.0) is None


def test_counting_since_a_moment_leaves_that_moment_out() -> None:
    mix = Mix(10.0, 1).advanced(tuple(sample("denoise", 1.0, end) for end in (1.0, 2.0, 3.0)), 3.0)
    assert mix.n_since(2.0) == 1


def test_samples_are_in_order_whenever_they_come() -> None:
    mix = Mix(10.0, 0)
    for ends in ((5.0,), (7.0, 6.0), (4.0,), (8.0,)):
        mix = mix.advanced(tuple(sample("decode", 1.0, ended_s) for ended_s in ends), 8.0)
    assert [kept.ended_s for kept in mix.samples] == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert [mix.n_since(at_s) for at_s in (3.0, 4.0, 6.5, 8.0)] == [5, 4, 2, 0]
    assert [kept.ended_s for kept in mix.advanced((), 16.0).samples] == [7.0, 8.0]
