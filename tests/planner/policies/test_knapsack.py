"""The multiple-choice knapsack by hand, and against an integer program's solver on random instances."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import highspy
import numpy as np
import pytest

from planner.policies.knapsack import Choice, best_choices

Items = Sequence[Sequence[Choice]]


def worth(items: Items, sizes: Sequence[int | None]) -> float:
    return sum(
        max(value for size, value in choices if size == got)
        for choices, got in zip(items, sizes, strict=True)
        if got is not None
    )


def test_everybody_has_the_best_choice_while_there_is_room() -> None:
    assert best_choices([[(1, 5.0), (2, 6.0)], [(4, 1.0)]], 6) == [2, 4]


def test_two_small_ones_beat_a_large_one() -> None:
    assert best_choices([[(2, 1002.0)], [(1, 1001.0)], [(1, 1001.0)]], 2) == [None, 1, 1]


def test_the_smaller_choice_makes_room() -> None:
    """3 + 4 would be 30 + 12 in 4: 1 and 3 give 20 + 30."""
    assert best_choices([[(3, 30.0)], [(1, 20.0), (4, 42.0)]], 4) == [3, 1]


def test_earlier_items_first_among_equals() -> None:
    assert best_choices([[(1, 7.0)]] * 4, 2) == [1, 1, None, None]
    assert best_choices([[(2, 7.0), (3, 8.0)]] * 3, 5) == [3, 2, None]


def test_nothing_fits_nowhere() -> None:
    assert best_choices([[(3, 9.0)], []], 2) == [None, None]
    assert best_choices([], 2) == []
    assert best_choices([[(1, 1.0)]], 0) == [None]


@pytest.mark.parametrize("seed", range(60))
def test_it_is_as_good_as_an_integer_program(seed: int) -> None:
    rng = random.Random(seed)
    items: list[list[Choice]] = []
    for _ in range(rng.randint(1, 30)):
        sizes = rng.sample((1, 2, 4, 8), rng.randint(1, 4))
        on_time = rng.random() < 0.5
        items.append([(s, 1000.0 + s if on_time else rng.uniform(100, 1000) + 2 * s - 1) for s in sizes])
    capacity = rng.randint(0, 40)
    got = best_choices(items, capacity)
    assert sum(size or 0 for size in got) <= capacity
    assert worth(items, got) == pytest.approx(solved(items, capacity))


def solved(items: Items, capacity: int) -> float:
    """The optimum of the integer program by HiGHS: one binary for each choice."""
    program = highspy.HighsLp()
    flat = [(place, size, value) for place, choices in enumerate(items) for size, value in choices]
    program.num_col_, program.num_row_ = len(flat), len(items) + 1
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_ = np.array([value for _, _, value in flat])
    program.col_lower_, program.col_upper_ = np.zeros(len(flat)), np.ones(len(flat))
    program.row_lower_ = np.full(len(items) + 1, -np.inf)
    program.row_upper_ = np.array([1.0] * len(items) + [float(capacity)])
    program.integrality_ = [highspy.HighsVarType.kInteger] * len(flat)
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_ = np.arange(0, 2 * len(flat) + 1, 2)
    program.a_matrix_.index_ = np.array([row for place, _, _ in flat for row in (place, len(items))])
    program.a_matrix_.value_ = np.array([v for _, size, _ in flat for v in (1.0, float(size))])
    solver = highspy.Highs()  # type: ignore[no-untyped-call] # its stub leaves the constructor untyped
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.passModel(program)
    solver.run()
    return float(solver.getInfo().objective_function_value)


def test_a_large_one_takes_milliseconds() -> None:
    """200 waiting requests with four choices each on 128 workers: 3 ms, with room for a busy machine."""
    rng = random.Random(1)
    items = [[(s, rng.uniform(100, 1000) + 2 * s) for s in (1, 2, 4, 8)] for _ in range(200)]
    seconds = []
    for _ in range(5):
        began_s = time.thread_time()
        best_choices(items, 128)
        seconds.append(time.thread_time() - began_s)
    assert min(seconds) < 0.02
