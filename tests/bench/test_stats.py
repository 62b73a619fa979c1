from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import percentile, percentiles


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-6)


def test_percentile_at_known_places() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 20) == pytest.approx(1.2)
    assert percentile([7.0], 95) == 7.0


@pytest.mark.parametrize(("values", "q"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_percentile_refuses(values: list[float], q: float) -> None:
    with pytest.raises(ValueError, match=r"no values|not between"):
        percentile(values, q)


def test_percentiles_by_name() -> None:
    assert percentiles([1.0, 2.0, 3.0], 0, 50, 100) == {"p0": 1.0, "p50": 2.0, "p100": 3.0}
    assert percentiles([], 50) == {}
