"""What holds for every memory, every mix and every moment of death: the fleet itself asserts each effect."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from planner import Observation, PlannerConfig, Profile, decide, initial_state
from tests.planner.fleet import Fleet
from tests.planner.values import TINY, job, worker

WORKERS = ("w0", "w1", "w2", "w3")
STAGES = TINY.stages

times_s = st.integers(0, 90).map(float)
costs_s = st.fixed_dictionaries({stage: st.sampled_from((0.1, 0.7, 3.0)) for stage in STAGES})
weights = st.fixed_dictionaries({stage: st.integers(1, 3) for stage in STAGES})
deaths = st.lists(st.tuples(st.sampled_from(WORKERS), times_s, st.integers(0, 5)), max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    costs_s=costs_s,
    new_costs_s=costs_s,
    ours=weights,
    theirs=weights,
    bound=st.integers(3, 9),
    n_workers=st.integers(1, 4),
    load_s=st.sampled_from((0.1, 2.0)),
    jobs=st.lists(st.tuples(st.sampled_from(("tiny", "other")), times_s, times_s), min_size=1, max_size=12),
    deaths=deaths,
)
def test_memory_is_never_over_and_every_job_ends(
    costs_s: dict[str, float],
    new_costs_s: dict[str, float],
    ours: dict[str, int],
    theirs: dict[str, int],
    bound: int,
    n_workers: int,
    load_s: float,
    jobs: list[tuple[str, float, float]],
    deaths: list[tuple[str, float, int]],
) -> None:
    """Each stage fits a worker by itself, so each job can be served, if only by swapping."""
    load = dict.fromkeys(STAGES, load_s)
    models = {
        name: replace(TINY, model=name, weight_bytes=of_model, load_s=load)
        for name, of_model in (("tiny", ours), ("other", theirs))
    }
    config = PlannerConfig(min_dwell_s=3.0, min_samples=2, mix_window_s=12.0)
    fleet = Fleet(models, config, costs_s, load_s, memory_bytes=bound)
    for name in WORKERS[:n_workers]:
        fleet.start(name)
    fleet.at(40.0, lambda: fleet.stage_s.update(new_costs_s))
    for place, (model, at_s, deadline_s) in enumerate(jobs):
        fleet.submit(f"job {place}", deadline_s, at_s, model=model)
    for name, at_s, down_s in deaths:
        fleet.kill(name, at_s)
        fleet.start(name, at_s + down_s)
    fleet.run(3000.0)
    assert sorted(fleet.finished_s) == sorted(f"job {place}" for place in range(len(jobs)))
    state = fleet.calls[0].before
    for call in fleet.calls:
        state, effects = decide(state, call.observation)
        assert (state, effects) == (call.after, call.effects)


@settings(max_examples=150, deadline=None)
@given(
    ours=weights,
    theirs=weights,
    bounds=st.lists(st.sampled_from((2, 3, 5, 9, None)), min_size=1, max_size=6),
    counts=st.lists(st.tuples(st.sampled_from(("tiny", "other")), st.integers(1, 9)), max_size=2),
)
def test_every_stage_has_a_home_where_memory_allows(
    ours: dict[str, int],
    theirs: dict[str, int],
    bounds: list[int | None],
    counts: list[tuple[str, int]],
) -> None:
    models = {
        name: replace(TINY, model=name, weight_bytes=of_model)
        for name, of_model in (("tiny", ours), ("other", theirs))
    }
    workers = tuple(
        replace(worker(f"w{i}", frozenset()), memory_bytes=bound) for i, bound in enumerate(bounds)
    )
    arrived = tuple(replace(job(f"{model} {i}", 99.0), model=model) for model, n in counts for i in range(n))
    state, _ = decide(initial_state(PlannerConfig(), Profile()), Observation(0.0, arrived, workers, models))
    placement = state.placement
    assert placement is not None
    for each in workers:
        held = sum(models[model].weight_bytes[stage] for model, stage in placement.stages[each.worker_id])
        assert each.memory_bytes is None or held <= each.memory_bytes
    homes = frozenset().union(*placement.stages.values())
    every = {(name, stage) for name in models for stage in STAGES}
    assert placement.homeless == every - homes
    sizes = sorted((n for view in models.values() for n in view.weight_bytes.values()), reverse=True)
    if _fits_first(sizes, bounds):
        assert placement.homeless == frozenset()
    if any(bound is None for bound in bounds):
        assert placement.homeless == frozenset()


def _fits_first(sizes: list[int], bounds: list[int | None]) -> bool:
    """Whether the sizes, the largest first, each find room on the first worker that has it left."""
    left = [99 if bound is None else bound for bound in bounds]
    for size in sizes:
        place = next((i for i, room in enumerate(left) if room >= size), None)
        if place is None:
            return False
        left[place] -= size
    return True
