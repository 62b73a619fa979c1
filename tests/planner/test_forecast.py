import math
from dataclasses import replace

import pytest

from planner import Forecast, JobView, Profile, Shape
from planner.demand import demand_s
from planner.forecast import Kind
from planner.types import Observation
from tests.planner.values import MODELS, SHAPE, TINY, job, sample, worker

LARGE = Shape(1024, 1024)


def jobs(first: int, n: int, shape: Shape = SHAPE) -> tuple[JobView, ...]:
    return tuple(replace(job(f"job {first + i}", 99.0), shape=shape) for i in range(n))


def seen(arrivals: dict[float, int], *, window_s: float = 60.0, min_samples: int = 1) -> Forecast:
    """`arrivals`: how many come at which second, each gone before the next one."""
    forecast = Forecast(window_s, min_samples).advanced((), 0.0)
    n = 0
    for at_s, more in sorted(arrivals.items()):
        forecast = forecast.advanced(jobs(n, more), at_s)
        n += more
    return forecast


def rate(forecast: Forecast, now_s: float, shape: Shape = SHAPE) -> float:
    return sum(of_kind for kind, of_kind in forecast.rates(now_s).items() if kind.shape == shape)


def test_arrivals_are_counted_once_whatever_becomes_of_them() -> None:
    forecast = Forecast(60.0, 1).advanced(jobs(0, 3), 0.0)
    running = tuple(replace(one, running=True, started=True) for one in jobs(0, 3))
    assert forecast.advanced(running, 1.0) is forecast
    # held back after a setback, then shown again: it had started
    again = forecast.advanced((), 2.0).advanced((replace(jobs(0, 1)[0], started=True), *jobs(3, 1)), 3.0)
    assert again.buckets[-1].total == 4
    assert again.rates(30.0) == {Kind("tiny", SHAPE, 4, TINY.stages): 4 / 30}


def test_a_job_keeps_the_stages_that_it_came_with() -> None:
    cached = replace(jobs(0, 1)[0], pending=("denoise", "decode"))
    (kind,) = Forecast(60.0, 1).advanced((cached,), 0.0).rates(1.0)
    assert kind.stages == ("denoise", "decode")


def test_the_rate_is_of_the_window_and_of_what_there_was_of_it() -> None:
    steady = seen({float(at): 1 for at in range(0, 600, 2)})
    assert steady.span_s(600.0) == pytest.approx(60.0, abs=10.0)
    assert rate(steady, 600.0) == pytest.approx(0.5, rel=0.02)
    young = seen({0.0: 1, 10.0: 1, 19.0: 1})
    assert young.span_s(20.0) == 20.0
    assert rate(young, 20.0) == 3 / 20


def test_the_window_reaches_further_back_for_what_a_forecast_needs() -> None:
    forecast = seen({0.0: 2, 100.0: 1, 500.0: 1}, min_samples=3).advanced((), 501.0)
    assert [bucket.total for bucket in forecast.buckets] == [2, 1, 1]
    forecast = seen({0.0: 2, 100.0: 1, 500.0: 1}, min_samples=2).advanced((), 501.0)
    assert [bucket.total for bucket in forecast.buckets] == [1, 1]
    assert forecast.span_s(501.0) == 401.0


def test_a_clear_trend_is_continued() -> None:
    # 10 in the older half minute, 40 in the newer: 70 in the next one, and at most twice the newer
    rising = seen({5.0: 10, 35.0: 40})
    assert rate(rising, 59.999) == pytest.approx(70 / 30, rel=1e-3)
    falling = seen({5.0: 40, 35.0: 10})
    assert rate(falling, 59.999) == pytest.approx(5 / 30, rel=1e-3)
    steep = seen({35.0: 40})
    assert rate(steep, 59.999) == pytest.approx(80 / 30, rel=1e-3)


def test_a_difference_that_chance_makes_is_no_trend() -> None:
    # of 50, 25 are expected in each half, give or take twice sqrt(50 / 4)
    assert 2 * math.sqrt(50 / 4) == pytest.approx(7.07, abs=0.01)
    assert rate(seen({5.0: 18, 35.0: 32}), 59.999) == pytest.approx(50 / 60, rel=1e-3)
    assert rate(seen({5.0: 17, 35.0: 33}), 59.999) == pytest.approx(49 / 30, rel=1e-3)


def test_a_last_bucket_that_has_just_begun_is_no_fall() -> None:
    steady = seen({float(at): 1 for at in range(601)})
    assert rate(steady, 600.5) == pytest.approx(1.0, rel=0.02)


def test_each_shape_has_its_own_trend() -> None:
    forecast = Forecast(60.0, 1).advanced((), 0.0)
    forecast = forecast.advanced(jobs(0, 40), 5.0).advanced(jobs(100, 40, LARGE), 35.0)
    assert rate(forecast, 59.999, LARGE) == pytest.approx(80 / 30, rel=1e-3)
    assert rate(forecast, 59.999, SHAPE) == 0.0


def test_the_largest_shape_stays_the_same_value_until_there_is_a_larger_one() -> None:
    forecast = Forecast(60.0, 1).advanced(jobs(0, 1, LARGE), 0.0)
    more = forecast.advanced(jobs(1, 1), 1.0)
    assert more.largest is forecast.largest
    assert more.largest == {"tiny": LARGE}


def test_the_largest_shape_is_forgotten_ten_windows_after_its_last_arrival() -> None:
    middle = Shape(768, 768)
    forecast = Forecast(60.0, 1).advanced(jobs(0, 1, LARGE), 0.0).advanced(jobs(1, 1, LARGE), 50.0)
    forecast = forecast.advanced(jobs(2, 1, middle), 645.0).advanced(jobs(3, 1), 650.0)
    assert forecast.largest == {"tiny": LARGE}
    # what came in the window since then still counts
    assert forecast.advanced(jobs(4, 1), 651.0).largest == {"tiny": middle}


def test_arrivals_since_a_moment_are_those_of_later_buckets() -> None:
    forecast = seen({5.0: 1, 15.0: 2, 25.0: 4})
    assert [forecast.n_since(at_s) for at_s in (0.0, 5.0, 20.0, 21.0)] == [7, 6, 4, 0]


def profile(**seconds: float) -> Profile:
    return Profile().with_samples([sample(stage, of_stage) for stage, of_stage in seconds.items()])


def test_demand_is_arrivals_and_open_jobs_in_gpu_seconds() -> None:
    known = profile(encode=1.0, denoise=8.0, decode=2.0)
    forecast = seen({float(at): 1 for at in range(0, 60, 10)})
    observation = Observation(60.0, (), (worker("w0"),), MODELS)
    assert demand_s(forecast, known, observation, 60.0) == pytest.approx(
        {("tiny", "encode"): 0.1, ("tiny", "denoise"): 0.8, ("tiny", "decode"): 0.2}
    )
    # half its loop is done: 4 s of it are left, over a horizon of 10 s
    half = replace(job("open", 99.0, pending=("denoise", "decode")), steps_done=2)
    queued = replace(observation, jobs=(half,))
    assert demand_s(forecast, known, queued, 10.0) == pytest.approx(
        {("tiny", "encode"): 0.1, ("tiny", "denoise"): 1.2, ("tiny", "decode"): 0.4}
    )


def test_what_was_never_run_counts_for_nothing() -> None:
    forecast = seen({0.0: 5})
    observation = Observation(60.0, (), (worker("w0"),), MODELS)
    assert demand_s(forecast, profile(encode=1.0, denoise=8.0), observation, 60.0) == {}
    assert (
        demand_s(
            forecast, profile(encode=1.0, denoise=8.0, decode=1.0), replace(observation, models={}), 60.0
        )
        == {}
    )
