"""The whole comparison in small: one model, five minutes of even and of bursty arrivals at load 1.0.

Arrivals and policies are deterministic, so this is exact: a change of the planner or of a rival that costs a
goal here fails, whatever else it gains.
"""

from __future__ import annotations

import pytest

from bench.rivals.goals import Verdict, verdicts
from bench.rivals.grid import B1, FAIR, OURS, TRIDENT, Plan
from bench.rivals.rows import Row, Table
from bench.rivals.runner import run_one

PLAN = Plan(
    name="rivals",
    question="",
    models=("flux",),
    arrivals=("even", "burst"),
    loads=(1.0,),
    policies=(OURS, FAIR, *B1, TRIDENT),
    n_seeds=1,
    minutes_x=0.5,
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [run_one(work) for work in PLAN.works()]


def test_goals_hold(rows: list[Row]) -> None:
    found = verdicts(Table(rows), view="resident")
    assert len(found) >= 7
    missed = {verdict.goal.text: [_told(verdict)] for verdict in found if verdict.missed}
    assert missed == {}


def test_nobody_passes_the_bound(rows: list[Row]) -> None:
    table = Table(rows)
    for place in table.places:
        bound = table.attainment(place, "bound")
        assert bound is not None
        assert all((table.attainment(place, policy) or 0.0) <= bound + 1e-9 for policy in PLAN.policies)


def test_every_policy_serves_or_drops_all_that_came(rows: list[Row]) -> None:
    for row in rows:
        if row.policy in (*B1, TRIDENT):
            assert row.unserved == 0.0
        assert row.busy is None or 0.0 < row.busy < 1.0


def _told(verdict: Verdict) -> str:
    return "; ".join(f"{miss.place}: {miss.against} ({miss.by:.2f})" for miss in verdict.missed)
