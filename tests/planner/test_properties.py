"""What holds for every fleet, every load and every moment of death."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from planner import (
    Evict,
    JobView,
    Load,
    ModelView,
    Observation,
    PlannerConfig,
    Run,
    RunningTask,
    StageSample,
    WakeAt,
    WorkerView,
    decide,
    initial_state,
)
from tests.planner.fleet import SHAPE, Fleet
from tests.planner.values import EVERY, MODELS, TINY

VIDEO = ModelView("video", ("encode", "refine", "denoise"), "denoise")
BOTH = {**MODELS, "video": VIDEO}
STAGES = ("encode", "denoise", "decode", "refine")
WORKERS = ("w0", "w1", "w2")

times_s = st.integers(0, 60).map(float)
configs = st.builds(
    PlannerConfig,
    mix_window_s=st.sampled_from((2.0, 30.0)),
    min_dwell_s=st.sampled_from((0.0, 3.0)),
    min_samples=st.integers(0, 6),
)
costs_s = st.fixed_dictionaries({stage: st.sampled_from((0.0, 0.1, 0.7, 3.0)) for stage in STAGES})
deaths = st.lists(st.tuples(st.sampled_from(WORKERS), times_s, st.integers(0, 5)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    config=configs,
    costs_s=costs_s,
    new_costs_s=costs_s,
    n_workers=st.integers(1, 3),
    load_s=st.sampled_from((0.0, 0.5, 4.0)),
    jobs=st.lists(st.tuples(st.sampled_from(("tiny", "video")), times_s, times_s), min_size=1, max_size=14),
    deaths=deaths,
)
def test_every_job_finishes_exactly_once_whatever_dies_and_however_the_mix_turns(
    config: PlannerConfig,
    costs_s: dict[str, float],
    new_costs_s: dict[str, float],
    n_workers: int,
    load_s: float,
    jobs: list[tuple[str, float, float]],
    deaths: list[tuple[str, float, int]],
) -> None:
    """The fleet itself asserts that each effect can be carried out (see `tests.planner.fleet`)."""
    fleet = Fleet(BOTH, config, costs_s, load_s)
    for name in WORKERS[:n_workers]:
        fleet.start(name)
    fleet.at(30.0, lambda: fleet.stage_s.update(new_costs_s))
    for place, (model, at_s, deadline_s) in enumerate(jobs):
        fleet.submit(f"job {place}", deadline_s, at_s, model=model)
    for name, at_s, down_s in deaths:
        fleet.kill(name, at_s)
        fleet.start(name, at_s + down_s)
    fleet.run()
    assert sorted(fleet.finished_s) == sorted(f"job {place}" for place in range(len(jobs)))
    state = fleet.calls[0].before
    for call in fleet.calls:
        state, effects = decide(state, call.observation)
        assert (state, effects) == (call.after, call.effects)


@settings(max_examples=60, deadline=None)
@given(deadlines_s=st.lists(st.integers(0, 20).map(float), min_size=1, max_size=10))
def test_equal_jobs_on_one_worker_finish_in_order_of_deadline(deadlines_s: list[float]) -> None:
    fleet = Fleet(MODELS, PlannerConfig(), dict.fromkeys(STAGES, 1.0))
    fleet.start("w0", resident=EVERY)
    for place, deadline_s in enumerate(deadlines_s):
        # all can be on time: who cannot makes way
        fleet.submit(f"job {place:02}", 100.0 + deadline_s)
    fleet.run()
    by_deadline = sorted(range(len(deadlines_s)), key=lambda place: (deadlines_s[place], place))
    assert list(fleet.finished_s) == [f"job {place:02}" for place in by_deadline]


keys = st.frozensets(st.tuples(st.sampled_from(("tiny", "video", "gone")), st.sampled_from(STAGES)))
pending = st.lists(st.sampled_from(STAGES), max_size=3).map(tuple)
models = st.sampled_from(("tiny", "video", "gone"))
job_views = st.builds(
    JobView,
    job_id=st.uuids().map(str),
    model=models,
    shape=st.just(SHAPE),
    steps=st.integers(0, 4),
    pending=pending,
    arrived_s=times_s,
    deadline_s=times_s,
    running=st.booleans(),
)
tasks = st.builds(
    RunningTask,
    task_id=st.just("task"),
    job_ids=st.just(("other",)),
    model=models,
    pending=pending,
    shape=st.just(SHAPE),
    steps=st.just(4),
    steps_done=st.integers(0, 4),
    started_s=times_s,
)
worker_views = st.builds(
    WorkerView,
    worker_id=st.sampled_from(WORKERS),
    node=st.just("node"),
    resident=keys,
    loading=keys,
    task=st.none() | tasks,
)
stage_samples = st.builds(
    StageSample,
    model=models,
    stage=st.sampled_from(STAGES),
    shape=st.just(SHAPE),
    steps=st.integers(0, 4),
    seconds=st.sampled_from((0.0, 0.2, 5.0)),
    ended_s=times_s,
    warm_up=st.booleans(),
)
observations = st.builds(
    Observation,
    now_s=times_s,
    jobs=st.lists(job_views, max_size=5).map(tuple),
    workers=st.lists(worker_views, max_size=3, unique_by=lambda worker: worker.worker_id).map(tuple),
    models=st.sampled_from(({}, {"tiny": TINY}, BOTH)),
    finished=st.lists(stage_samples, max_size=6).map(tuple),
)
pinned = st.dictionaries(st.sampled_from(WORKERS), st.just(("encode", "decode", "nothing")), max_size=2)


@settings(max_examples=150, deadline=None)
@given(config=configs, pinned=pinned, seen=st.lists(observations, min_size=1, max_size=4))
def test_whatever_is_seen_gives_effects_that_can_be_carried_out(
    config: PlannerConfig, pinned: dict[str, tuple[str, ...]], seen: list[Observation]
) -> None:
    state = initial_state(replace(config, pinned=pinned))
    for observation in seen:
        reversed_order = replace(observation, jobs=observation.jobs[::-1], workers=observation.workers[::-1])
        assert decide(state, reversed_order) == decide(state, observation)
        state, effects = decide(state, observation)
        for effect in effects:
            match effect:
                case Run():
                    check_run(effect, observation)
                case Load() | Evict():
                    check_move(effect, observation)
                case WakeAt():
                    assert effect.at_s > observation.now_s
        started = [effect for effect in effects if isinstance(effect, Run)]
        assert len({run.workers for run in started}) == len(started)
        assert len({run.jobs for run in started}) == len(started)
        assert sum(isinstance(effect, WakeAt) for effect in effects) <= 1


def check_run(run: Run, observation: Observation) -> None:
    (job,) = (job for job in observation.jobs if (job.job_id,) == run.jobs)
    (worker,) = (worker for worker in observation.workers if (worker.worker_id,) == run.workers)
    assert run.stages
    assert run.stages == job.pending[: len(run.stages)]
    assert not job.running
    assert worker.task is None
    assert {(job.model, stage) for stage in run.stages} <= worker.resident


def check_move(effect: Load | Evict, observation: Observation) -> None:
    (worker,) = (worker for worker in observation.workers if worker.worker_id == effect.worker)
    touched = {(effect.model, stage) for stage in effect.stages}
    assert touched
    assert effect.model in observation.models
    if isinstance(effect, Load):
        assert not touched & (worker.resident | worker.loading)
    else:
        elsewhere = [other.resident for other in observation.workers if other is not worker]
        assert touched <= worker.resident
        assert touched <= frozenset().union(*elsewhere)
