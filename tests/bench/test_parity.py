"""The live run's simulation beside it: from a kept profile, by hand, and its table."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.arrivals import Arrival
from bench.costs_measured import ProfileUnreadable
from bench.load import Result, TimedRequest
from bench.parity import Plan, arrivals, asked_costs, corrected, factors, live, simulated
from bench.parity_command import main
from bench.parity_table import parity
from bench.render import rendered
from pipelines.catalogue import load_catalogue
from planner.measurements import Measurement, Measurements
from planner.types import Shape, StageSample

SMALL, LARGE, UNGUIDED = Shape(64, 64), Shape(256, 256), Shape(64, 64, guided=False)
STEPS = 4
NAME = "triptych-emoji"
SECONDS = {"text_encoder": 0.5, "decode": 0.5}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """With a profile: 0.5 s of encode and of decode, four steps of 1 s, or 2 s at the larger size."""
    measured = [
        Measurement(stage=stage, shape=shape, seconds=seconds)
        for shape in (SMALL, LARGE, UNGUIDED)
        for stage, seconds in {**SECONDS, "denoise": 2.0 if shape == LARGE else 1.0}.items()
    ]
    model = load_catalogue()[NAME]
    made = Plan(name=NAME, model=model, folder=tmp_path, span_s=60.0, n_runs=1, seed=1)
    made.profiles.mkdir()
    kept = {
        "key": {"entry": {"default_steps": STEPS}},
        "measurements": Measurements(device="cpu", model=NAME, measured=tuple(measured), resume_s=0.1),
    }
    (made.profiles / "one.json").write_bytes(msgspec.json.encode(kept))
    return made


def asked(at_s: float, shape: Shape, slo_s: float) -> Arrival:
    return Arrival(at_s, NAME, shape, STEPS, slo_s)


def test_sizes_are_asked_for_as_the_model_is_meant(plan: Plan) -> None:
    (model,) = asked_costs(plan).models.values()
    assert model.mix == (SMALL, LARGE)
    assert [model.latency_s(shape, 1) for shape in model.mix] == [5.0, 9.0]
    assert model.steps == STEPS


def test_load_one_keeps_both_workers_busy_by_what_was_measured(plan: Plan) -> None:
    """A picture takes 7 s on average: 2/7 a second."""
    made = arrivals(asked_costs(plan), 1.0, 7000.0, random.Random(0))
    assert len(made) == pytest.approx(2000, rel=0.1)
    assert {arrival.slo_s for arrival in made} == {12.5, 22.5}


def test_a_simulation_is_of_two_workers_with_drops(plan: Plan) -> None:
    """Three of 5 s at once, due in 9: the third would end at 10 and is dropped."""
    found = simulated(asked_costs(plan), [asked(0.0, SMALL, 9.0)] * 3)
    assert found == {"attainment": 2 / 3, "dropped": pytest.approx(1 / 3), "mean_s": 5.0, "p95_s": 5.0}


def test_a_profile_that_saw_tasks_corrects_each_stage_by_one_factor(plan: Plan) -> None:
    """Loops took 30 % longer than measured at one size; what was not seen goes by what was."""
    costs = asked_costs(plan)
    (model,) = costs.models.values()
    sample = StageSample(
        model=NAME, stage="denoise", shape=SMALL, steps=STEPS, seconds=STEPS * 1.3, ended_s=9.0, device="cpu"
    )
    seen = corrected(costs, costs.profile().with_samples([sample] * 9))
    assert factors(costs, seen) == pytest.approx({"text_encoder": 1.0, "denoise": 1.3, "decode": 1.0})
    (slower,) = seen.models.values()
    assert [slower.latency_s(shape, 1) for shape in model.mix] == pytest.approx([6.2, 11.4])
    assert corrected(costs, costs.profile()) == costs


def test_a_live_run_is_counted_over_all_that_was_asked() -> None:
    def result(latency_s: float, status: int) -> Result:
        request = TimedRequest(prompt="a hat", seed=1, slo_ms=2000.0)
        error = None if status == 200 else "too late"
        made = {"index": 0, "request": request, "due_s": 0.0, "sent_s": 0.0, "timing_ms": {}}
        return Result(**made, latency_s=latency_s, status=status, error=error)  # type: ignore[arg-type]

    found = live([result(1.0, 200), result(3.0, 200), result(0.1, 429), result(2.0, 504)])
    assert found == {"attainment": 0.25, "dropped": 0.5, "mean_s": 2.0, "p95_s": 2.9}


def test_a_folder_without_one_profile_is_refused(plan: Plan) -> None:
    (plan.profiles / "two.json").write_text("{}")
    with pytest.raises(ProfileUnreadable, match="2 profiles"):
        asked_costs(plan)


def cell(run: int, load: float, live_share: float, simulated_share: float) -> dict[str, Any]:
    sides = {
        side: {"attainment": share, "dropped": 0.1, "mean_s": 1.0, "p95_s": 2.0}
        for side, share in (("live", live_share), ("simulated", simulated_share), ("as_measured", 0.99))
    }
    return {"run": run, "load": load, "n": 10, "decisions": 20, "effects": 15, **sides}


def result_of(*cells: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": "parity",
        "question": "?",
        "model": NAME,
        "workers": 2,
        "steps": 4,
        "alone_s": {"64x64": 5.0},
        "span_s": 60.0,
        "runs": 2,
        "seed": 1,
        "goal_points": 5.0,
        "warm_up_s": 60.0,
        "corrected": {"denoise": 1.2},
        "cells": list(cells),
        "commit": "abc",
        "device": "CPU",
        "cpu": "x",
        "cores": 2,
        "threads": 1,
        "load_average": {"before": 0.1, "after": 1.0},
        "versions": {"python": "3"},
    }


def test_the_goal_is_about_means_over_the_runs(tmp_path: Path) -> None:
    """6 points too many and 4 too few are 1 too many; 0.5 points a run are 5.5 too few at the other load."""
    first = [cell(0, 0.7, 0.90, 0.96), cell(1, 0.7, 0.90, 0.86)]
    text = parity(result_of(*first))
    assert "at most **1.0 points**" in text
    assert "is met" in text
    assert (
        "| 0.7 | 20 | 90.0 | 91.0 | 99.0 | +1.0 | +6.0, -4.0 | 10.0 | 10.0 | 1.00 | 1.00 | 2.00 | 2.00 |"
        in text
    )
    assert "All 40 decisions" in text
    assert "is missed" in parity(result_of(*first, cell(0, 0.9, 0.9, 0.845)))
    file = tmp_path / "parity.json"
    file.write_bytes(msgspec.json.encode(result_of(*first)))
    assert rendered(file) == text


@pytest.mark.parametrize("flags", [("--runs", "0"), ("--loads", "0"), ("--model", "nobody")])
def test_what_makes_no_sense_is_refused(flags: tuple[str, ...]) -> None:
    assert main(list(flags)) == 2
