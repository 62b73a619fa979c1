"""Several models on one fleet, which join and leave while others are served."""

from __future__ import annotations

from dataclasses import replace

from planner import Load, ModelView, PlannerConfig, Reason, Run
from planner.types import Observation
from tests.planner.fleet import Fleet
from tests.planner.values import EVERY, MODELS, TINY, job, runs, stages, worker

OTHER = ModelView("other", ("encode", "denoise", "decode"), "denoise")
BOTH = {**MODELS, "other": OTHER}
ALL = EVERY | stages(*OTHER.stages, model="other")
SECONDS = {"encode": 1.0, "denoise": 2.0, "decode": 1.0}


def fleet_of(*workers: str, models: dict[str, ModelView], config: PlannerConfig | None = None) -> Fleet:
    fleet = Fleet(models, config or PlannerConfig(), SECONDS, load_s=5.0)
    for name in workers:
        fleet.start(name)
    return fleet


def join(fleet: Fleet, model: ModelView, at_s: float) -> None:
    fleet.at(at_s, lambda: setattr(fleet, "models", {**fleet.models, model.model: model}))


def asked(fleet: Fleet, model: str) -> list[tuple[float, str]]:
    return [(at_s, e.worker) for at_s, e in fleet.effects(Load) if isinstance(e, Load) and e.model == model]


def test_a_model_that_joins_is_loaded_on_one_worker_after_the_other() -> None:
    fleet = fleet_of("w0", "w1", models=MODELS)
    join(fleet, OTHER, 20.0)
    fleet.run()
    # both were empty; then one of them always serves
    assert asked(fleet, "tiny") == [(0.0, "w0"), (0.0, "w1")]
    assert asked(fleet, "other") == [(20.0, "w0"), (35.0, "w1")]
    reasons = {e.reason for _, e in fleet.effects(Load) if isinstance(e, Load) and e.model == "other"}
    assert reasons == {Reason.MODELS_CHANGED}
    assert fleet.placements[-1].detail == "other joined: other: 2 x EDC; tiny: 2 x EDC"
    assert fleet.placements[-1].stages == {"w0": ALL, "w1": ALL}


def test_jobs_run_while_a_model_joins() -> None:
    fleet = fleet_of("w0", "w1", models=MODELS)
    join(fleet, OTHER, 20.0)
    for second in range(20, 50, 5):
        fleet.submit(f"job {second}", deadline_s=second + 30.0, at_s=float(second))
    fleet.run()
    taken_s = [at_s - float(job.split()[1]) for job, at_s in fleet.finished_s.items()]
    assert len(taken_s) == 6
    # no longer than behind one other job, of which none waits for a load
    assert max(taken_s) <= 8.0


def test_jobs_of_both_models_run() -> None:
    fleet = fleet_of("w0", models=BOTH)
    fleet.submit("a", deadline_s=90.0, at_s=40.0)
    fleet.submit("b", deadline_s=80.0, at_s=40.0, model="other")
    fleet.run()
    assert [ran.job_id for ran in fleet.ran] == ["b"] * 3 + ["a"] * 3


def test_a_pinned_placement_holds_the_stages_of_every_model() -> None:
    config = PlannerConfig(pinned={"w0": ("encode", "decode"), "w1": ("denoise",)})
    fleet = fleet_of("w0", "w1", models=MODELS, config=config)
    join(fleet, OTHER, 20.0)
    fleet.submit("a", deadline_s=99.0, at_s=40.0)
    fleet.at(40.0, lambda: None)
    fleet.run()
    assert fleet.resident("w0") == {"encode", "decode"}
    assert fleet.resident("w1") == {"denoise"}
    held = {e.model for _, e in fleet.effects(Load) if isinstance(e, Load) and e.worker == "w1"}
    assert held == {"tiny", "other"}


def test_a_model_that_left_is_not_placed_again() -> None:
    fleet = fleet_of("w0", models=BOTH)
    fleet.at(40.0, lambda: setattr(fleet, "models", MODELS))
    fleet.kill("w0", 50.0)
    fleet.start("w0", 51.0)
    fleet.run()
    assert [at_s for at_s, _ in asked(fleet, "other")] == [0.0]
    assert [at_s for at_s, _ in asked(fleet, "tiny")] == [0.0, 51.0]
    assert "other left: tiny: 1 x EDC" in [placement.detail for placement in fleet.placements]


def test_runs_of_a_model_need_its_own_stages() -> None:
    fleet = fleet_of(models=BOTH)
    fleet.start("w0", resident=stages(*TINY.stages))
    fleet.submit("b", deadline_s=50.0, model="other")
    fleet.run(until_s=1.0)
    assert not fleet.effects(Run)


def test_a_job_waits_for_a_busy_worker_before_it_waits_for_a_load() -> None:
    fleet = fleet_of(models=MODELS)
    fleet.load_s = 60.0
    fleet.start("w0", resident=EVERY)
    fleet.start("w1", resident=EVERY)
    join(fleet, OTHER, 1.0)
    for name in ("a", "b", "c"):
        fleet.submit(name, deadline_s=50.0, at_s=2.0)
    fleet.run(until_s=30.0)
    # w0 loads; to stand behind that would take minutes
    assert {ran.worker for ran in fleet.ran} == {"w1"}
    assert sorted(fleet.finished_s.values()) == [6.0, 10.0, 14.0]


def test_a_job_waits_for_a_load_where_nobody_else_can_run_it() -> None:
    fleet = fleet_of(models=MODELS)
    fleet.start("w0", resident=EVERY)
    join(fleet, OTHER, 1.0)
    fleet.submit("a", deadline_s=50.0, at_s=2.0)
    fleet.run()
    assert fleet.finished_s == {"a": 20.0}


def test_a_worker_that_is_occupied_is_held_up_like_one_that_loads() -> None:
    describing = replace(worker("w0"), occupied=True)
    targets = {"w0": EVERY, "w1": EVERY}
    one = job("a", 9.0)
    busy = worker("w1", busy_with=("denoise",))
    assert runs(targets, Observation(0.0, (one,), (describing, busy), MODELS)) == []
    (run,) = runs(targets, Observation(0.0, (one,), (describing, worker("w1")), MODELS))
    assert run.workers == ("w1",)
    (run,) = runs(targets, Observation(0.0, (one,), (describing,), MODELS))
    assert run.workers == ("w0",)
