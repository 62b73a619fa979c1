"""What holds for every rival in closed runs: effects can be carried out, every job ends, runs repeat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.costs_l20 import MODELS, l20
from bench.simulate import FleetConfig
from bench.simulate.cell import Cell, run_cell
from planner import JobView, PlannerConfig, Profile, decide, initial_state
from tests.planner.cluster import Cluster
from tests.planner.gpus import COSTS, LARGE, SMALL, STEPS
from tests.planner.values import TINY

RIVALS = ("b1", "b1:4", "b2", "b3", "b4", "b5", "b6", "trident", "lego", "fair")
APART = ("b5", "b6", "trident", "lego")
"""Those that can serve what fits on no worker as a whole."""


def simulated(policy: str, model: str, view: str = "resident", **more: Any) -> dict[str, Any]:
    """One minute of bursts on two nodes. Effects that do not fit end it with `EffectRefused`."""
    fleet = FleetConfig(n_gpus=16, warm=view == "resident", **more)
    cell = Cell(costs=l20(model, view=view), process="burst", load=1.0, span_s=60.0, seed=0, fleet=fleet)
    return run_cell(cell, policy)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("decision_")}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("policy", RIVALS)
def test_every_job_ends(policy: str, model: str) -> None:
    row = simulated(policy, model)
    assert row["n"] > 3
    assert row["outcomes"]["unfinished"] == row["outcomes"]["out_of_memory"] == 0
    if policy not in ("fair", "lego"):
        assert row["outcomes"]["done"] == row["n"]


@pytest.mark.parametrize("model", ["flux", "hunyuanvideo"])
@pytest.mark.parametrize("policy", APART)
def test_what_does_not_fit_whole_is_served_apart(policy: str, model: str) -> None:
    row = simulated(policy, model, "48gb")
    assert row["outcomes"]["unfinished"] == row["outcomes"]["out_of_memory"] == 0
    assert row["outcomes"]["done"] > 0


@pytest.mark.parametrize("policy", RIVALS)
def test_workers_may_die(policy: str) -> None:
    row = simulated(policy, "cogvideox", mean_life_s=300.0)
    assert row["deaths"] > 0
    assert row["outcomes"]["unfinished"] == 0


@pytest.mark.parametrize("policy", RIVALS)
def test_the_same_run_twice_is_the_same(policy: str) -> None:
    one, two = (simulated(policy, "flux", noise=0.1) for _ in range(2))
    assert timeless(one) == timeless(two)


@settings(max_examples=40, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 200), st.sampled_from((SMALL, LARGE)), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    nodes=st.sampled_from(((1, 1), (1, 2), (2, 4))),
    policy=st.sampled_from(("b1", "b2", "b3", "b4", "b5", "b6", "trident", "lego")),
)
def test_no_decision_depends_on_the_order_of_what_is_seen(
    drawn: list[tuple[int, int, Any, bool]], nodes: tuple[int, int], policy: str
) -> None:
    cluster = Cluster({"tiny": COSTS}, PlannerConfig(policy=policy), *nodes, degrees=(1, 2, 4))
    for place, (at_s, slack_s, shape, drops) in enumerate(drawn):
        cluster.submit(
            JobView(
                f"j{place:02}",
                "tiny",
                shape,
                STEPS,
                TINY.stages,
                float(at_s),
                float(at_s + slack_s),
                drop_if_late=drops,
            )
        )
    cluster.run()
    assert len(cluster.ended_s) + len(cluster.rejected) == len(drawn)
    state = initial_state(PlannerConfig(policy=policy), Profile().with_measured(COSTS.measured()))
    for seen, effects in cluster.calls:
        shuffled = replace(seen, jobs=seen.jobs[::-1], workers=seen.workers[::-1])
        assert decide(state, shuffled)[1] == effects
        state, again = decide(state, seen)
        assert again == effects
