import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.capacity import MAX_SETS, capacity

E, D, C = 1, 2, 4


def test_everything_everywhere_serves_what_there_are_workers_for() -> None:
    found = capacity({E | D | C: 4}, (0.2, 1.6, 0.2))
    assert (found.rate, found.short, found.homeless) == (2.0, E | D | C, 0)


def test_a_split_serves_what_its_scarcest_stage_does() -> None:
    # one worker for 1.6 of denoising, one for 0.4 of the rest
    found = capacity({D: 1, E | C: 1}, (0.2, 1.6, 0.2))
    assert (found.rate, found.short) == (1 / 1.6, D)


def test_stages_that_share_workers_are_short_together() -> None:
    # D has three workers and C two of its own; E and D together have no more than four for 5.0
    found = capacity({E: 1, E | D: 3, C: 2}, (2.0, 3.0, 1.0))
    assert (found.rate, found.short) == (4 / 5, E | D)


def test_all_that_is_equally_short_is_told() -> None:
    found = capacity({E: 1, D: 2, C: 5}, (1.0, 2.0, 1.0))
    assert (found.rate, found.short) == (1.0, E | D)


def test_a_part_without_a_home_is_told_and_bounds_nothing() -> None:
    found = capacity({D: 2, 0: 5}, (1.0, 4.0, 0.5))
    assert (found.rate, found.homeless, found.homeless_s) == (0.5, E | C, 1.5)
    nothing = capacity({}, (1.0,))
    assert (nothing.rate, nothing.homeless) == (float("inf"), 1)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        # less without a home comes before any rate
        (({E: 1, D: 1}, (1.0, 9.0)), ({D: 9}, (1.0, 9.0))),
        (({D: 9, E: 1}, (1.0, 9.0)), ({D: 8, E: 2}, (1.0, 9.0))),
        # equal rates: less is short
        (({E: 1, D: 2}, (1.0, 1.0)), ({E: 1, D: 1}, (1.0, 1.0))),
    ],
)
def test_which_of_two_is_better(
    better: tuple[dict[int, int], tuple[float, ...]], worse: tuple[dict[int, int], tuple[float, ...]]
) -> None:
    ours, theirs = capacity(*better), capacity(*worse)
    assert ours.is_better_than(theirs)
    assert not theirs.is_better_than(ours)
    assert not ours.is_better_than(ours)


counts = st.dictionaries(st.integers(1, 15), st.integers(0, 5), max_size=5)
demands = st.lists(st.sampled_from((0.1, 0.5, 1.0, 3.0)), min_size=4, max_size=4)


@given(counts=counts, demand_s=demands)
def test_the_rate_is_the_least_over_all_choices_of_parts(
    counts: dict[int, int], demand_s: list[float]
) -> None:
    found = capacity(counts, demand_s)
    held = 0
    for parts, n in counts.items():
        held |= parts if n else 0
    assert found.homeless == 15 & ~held
    rates = [float("inf")]
    for chosen in range(1, 16):
        if not chosen & ~held:
            workers = sum(n for parts, n in counts.items() if parts & chosen)
            rates.append(workers / sum(demand_s[part] for part in range(4) if chosen >> part & 1))
    assert found.rate == pytest.approx(min(rates))


def test_more_different_sets_than_are_told_apart() -> None:
    # 2^4 - 1 sets of four parts; the rarest count as one, which never understates
    counts = {held: held for held in range(1, 16)}
    assert len(counts) > MAX_SETS
    demand_s = (1.0, 2.0, 3.0, 4.0)
    exact = min(
        sum(n for parts, n in counts.items() if parts & chosen)
        / sum(demand_s[part] for part in range(4) if chosen >> part & 1)
        for chosen in range(1, 16)
    )
    assert exact <= capacity(counts, demand_s).rate <= 1.2 * exact


def test_brute_force_agrees_on_what_can_be_served() -> None:
    """Two workers, parts done in tenths of a second: the rate is what an actual division of work reaches."""
    demand_s = (0.3, 0.6, 0.3)
    best = 0.0
    for d_first in range(11):
        # worker 1 holds E and D, worker 2 D and C
        load_1 = demand_s[0] + demand_s[1] * d_first / 10
        load_2 = demand_s[2] + demand_s[1] * (10 - d_first) / 10
        best = max(best, 1 / max(load_1, load_2))
    assert capacity({E | D: 1, D | C: 1}, demand_s).rate == pytest.approx(best)
