import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.fit import fitted


def test_one_token_count_is_taken_to_be_proportional() -> None:
    fit = fitted([(100, 1.0), (100, 3.0)])
    # the least (x - 1)^2 + (x / 3 - 1)^2 is at 1.2, nearer to the smaller one
    assert fit.coefficients == pytest.approx((0.0, 0.012, 0.0))
    assert fit.worst_error is None


def test_two_token_counts_give_a_line() -> None:
    fit = fitted([(100, 3.0), (200, 5.0)])
    assert fit.coefficients == pytest.approx((1.0, 0.02, 0.0))
    # each alone is taken as proportional: 6 for 5, and 2.5 for 3
    assert fit.worst_error == pytest.approx(0.2)
    assert fit.median_error == pytest.approx((0.2 + 1 / 6) / 2)


def test_a_parabola_is_found() -> None:
    fit = fitted([(t, 0.5 + 1e-3 * t + 2e-7 * t * t) for t in (1_000, 4_000, 16_000, 64_000)])
    assert fit.coefficients == pytest.approx((0.5, 1e-3, 2e-7))
    assert fit.worst_error == pytest.approx(0.0, abs=1e-6)
    assert fit.at(8_000) == pytest.approx(0.5 + 8 + 12.8)


def test_no_term_is_below_zero() -> None:
    # a straight line through the last two would begin below 0
    fit = fitted([(100, 0.1), (200, 1.0), (300, 2.0)])
    assert min(fit.coefficients) >= 0
    assert fit.at(1) >= 0


def test_of_equal_fits_the_simplest_is_taken() -> None:
    assert fitted([(t, 3.0 * t) for t in (1, 2, 3, 4)]).coefficients == pytest.approx((0.0, 3.0, 0.0))


def test_nothing_costs_nothing() -> None:
    fit = fitted([(100, 0.0), (200, 0.0)])
    assert (fit.at(500), fit.worst_error) == (0.0, None)


def test_a_gap_of_three_points_to_their_neighbours_is_told() -> None:
    fit = fitted([(100, 1.0), (200, 2.0), (300, 6.0)])
    # 3 is expected at 300 from the first two
    assert fit.worst_error is not None
    assert fit.worst_error >= 0.5


@given(
    st.dictionaries(st.integers(1, 10**9), st.floats(1e-6, 1e6), min_size=1, max_size=8),
    st.integers(1, 10**9),
)
def test_a_fit_never_falls_with_tokens(points: dict[int, float], tokens: int) -> None:
    fit = fitted(list(points.items()))
    assert 0 <= fit.at(tokens) <= fit.at(2 * tokens)
