"""Micro traces with exact times, what a simulation refuses, and what is so for every one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.arrivals import Arrival
from bench.costs import Costs
from bench.simulate import Decide, EffectRefused, Fleet, FleetConfig, Outcome, simulate
from bench.simulate.parts import Span
from planner.types import (
    Degrade,
    Effect,
    Evict,
    Load,
    Observation,
    Pause,
    Reason,
    Reject,
    Run,
    Shape,
    WakeAt,
    WorkerView,
)
from tests.bench.simple_policies import Earliest, Restless
from tests.bench.small_costs import LARGE, SMALL, STAGES, asked, small_costs

WHY = Reason.MORE_URGENT
G0, G1 = "n000g0", "n000g1"
PAIR = FleetConfig(n_gpus=2, gpus_per_node=2)


class Script:
    """Says the effects written for a time at the first decision from then on, and wakes up for the next."""

    def __init__(self, lines: Mapping[float, Sequence[Effect]]) -> None:
        self.lines = dict(sorted(lines.items()))
        self.seen: list[Observation] = []

    def __call__(self, state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        self.seen.append(seen)
        effects: list[Effect] = []
        for at_s in [at_s for at_s in self.lines if at_s <= seen.now_s]:
            effects += self.lines.pop(at_s)
        if self.lines:
            effects.append(WakeAt(at_s=next(iter(self.lines))))
        return None, tuple(effects)

    def worker(self, worker_id: str, at_s: float) -> WorkerView:
        """As it was shown at the last decision by then."""
        seen = [seen for seen in self.seen if seen.now_s <= at_s][-1]
        return next(worker for worker in seen.workers if worker.worker_id == worker_id)


def run(*workers: str, job: int = 0, stages: tuple[str, ...] = STAGES) -> Run:
    return Run(stages=stages, jobs=(f"job-{job}",), workers=workers, degree=len(workers))


def pause(worker: str, job: int = 0) -> Pause:
    return Pause(worker=worker, job=f"job-{job}", reason=WHY)


def simulated(
    policy: Decide,
    arrivals: Sequence[Arrival],
    *,
    config: FleetConfig = PAIR,
    costs: Costs | None = None,
    kill: Mapping[float, str] | None = None,
) -> Fleet:
    fleet = Fleet(costs or small_costs(), config, arrivals)
    for at_s, worker in (kill or {}).items():
        fleet.workers.kill(worker, at_s)
    simulate(fleet, policy, None)
    return fleet


def ends_s(fleet: Fleet) -> list[float | None]:
    return [job.ended_s for job in fleet.book.jobs]


# exact times


def test_three_jobs_on_two_workers_finish_when_arithmetic_says() -> None:
    """Small jobs take 1 + 8 + 2 = 11 s on one worker; the third begins when the first has ended."""
    fleet = simulated(Earliest(small_costs()), [asked(0.0), asked(1.0), asked(2.0)])
    assert ends_s(fleet) == [11.0, 12.0, 22.0]
    assert fleet.accounts.usage_s == {"encode": 3.0, "denoise": 24.0, "decode": 6.0}


def test_a_gang_waits_for_the_encode_and_all_but_its_first_are_free_after_the_loop() -> None:
    """Degree 2: encode 0-1 on g0, loop 1-6 on both, decode 6-8 on g0. g1 is free for the next from 6 on."""
    script = Script({0.0: [run(G0, G1)], 5.0: [], 6.0: [run(G1, job=1)]})
    fleet = simulated(script, [asked(0.0), asked(0.0)])
    assert ends_s(fleet) == [8.0, 17.0]
    assert fleet.accounts.usage_s == {"encode": 2.0, "gang wait": 1.0, "denoise": 18.0, "decode": 4.0}
    task = script.worker(G1, 5.0).task
    assert task is not None
    assert (task.workers, task.degree) == ((G0, G1), 2)


def test_a_stage_on_another_worker_pays_the_handoff_and_on_the_same_one_nothing() -> None:
    """Encode 0-1 on g0. Loop on g1: 0.25 s later, 1.25-9.25. Decode on g1, where its input is: 9.25-11.25."""
    lines = {
        0.0: [run(G0, stages=("encode",))],
        1.0: [run(G1, stages=("denoise",))],
        9.25: [run(G1, stages=("decode",))],
    }
    fleet = simulated(Script(lines), [asked(0.0)])
    assert ends_s(fleet) == [11.25]
    assert fleet.accounts.usage_s["takeover"] == 0.25


def test_a_pause_leaves_at_the_next_boundary_and_a_resume_costs_what_it_says() -> None:
    """Loop from 1.0 in steps of 2 s. Asked at 2.5 it leaves at 3.0 with one step done; told to go on at
    degree 2 from 10.0: 0.5 s to resume, three steps of 1.25 s, decode 2 s."""
    script = Script({0.0: [run(G0)], 2.5: [pause(G0)], 10.0: [run(G0, G1, stages=("denoise", "decode"))]})
    fleet = simulated(script, [asked(0.0)])
    assert ends_s(fleet) == [10.0 + 0.5 + 3.75 + 2.0]
    job = script.seen[-2].jobs[0]
    paused = next(seen for seen in script.seen if seen.now_s == 3.0).jobs[0]
    assert (paused.running, paused.steps_done, paused.pending) == (False, 1, ("denoise", "decode"))
    assert job.started
    assert fleet.accounts.usage_s["denoise"] == 2.0 + 2 * 3.75


def test_a_loop_makes_a_step_before_it_leaves_and_one_in_its_last_step_ends() -> None:
    """Asked during the encode it leaves behind its first step, at 3.0; asked at 7.5, in its last, it ends."""
    script = Script({0.0: [run(G0)], 0.5: [pause(G0)]})
    early = simulated(script, [asked(0.0)])
    assert early.book.jobs[0].view.steps_done == 1
    assert script.seen[-1].now_s == 3.0
    late = simulated(Script({0.0: [run(G0)], 7.5: [pause(G0)]}), [asked(0.0)])
    assert ends_s(late) == [11.0]


def test_steps_are_told_at_the_first_boundary_and_then_when_asked_again() -> None:
    """Progress each second; a step of the small shape takes 2 s, so each is told that a decision sees."""
    script = Script({0.0: [run(G0)], 2.9: [], 3.5: [], 6.0: []})
    simulated(script, [asked(0.0)])
    told = []
    for at_s in (2.9, 3.5, 6.0):
        task = script.worker(G0, at_s).task
        assert task is not None
        told.append((task.steps_done, task.since_s))
    assert told == [(0, 1.0), (1, 3.0), (2, 5.0)]


def test_a_run_waits_for_loads_before_it_and_a_load_for_the_task_before_it() -> None:
    """Cold: loads of 3 + 5 + 1 s are asked at 0, the encode is there at 3; a run asked then begins at 9, and
    a load asked at 10, behind it, is done when the task has ended at 20."""
    cold = FleetConfig(n_gpus=2, gpus_per_node=2, warm=False, lead_s=0.0)
    lines: dict[float, list[Effect]] = {
        0.0: [Load(worker=G0, model="small", stages=(stage,), reason=WHY) for stage in STAGES],
        9.0: [run(G0)],
        10.0: [Evict(worker=G0, model="small", stages=("encode",), reason=WHY)],
        11.0: [Load(worker=G0, model="small", stages=("encode",), reason=WHY)],
        30.0: [],
    }
    script = Script(lines)
    fleet = simulated(script, [asked(0.0), asked(0.0)], config=cold)
    assert ends_s(fleet)[0] == 20.0
    assert script.worker(G0, 3.0).resident == {("small", "encode")}
    assert script.worker(G0, 22.9).loading == {("small", "encode")}
    assert script.worker(G0, 23.0).resident == {("small", stage) for stage in STAGES}
    assert fleet.accounts.usage_s["load"] == 12.0


def test_jobs_of_a_batch_are_in_lockstep_at_its_cost() -> None:
    """Two jobs at 1.5 times the seconds of one: 16.5 s."""
    both = Run(stages=STAGES, jobs=("job-0", "job-1"), workers=(G0,))
    fleet = Fleet(small_costs(batches=True), PAIR, [asked(0.0), asked(0.0)])
    fleet.clock.advance()
    for job in fleet.book.jobs:
        job.view = fleet.book.views[job.view.job_id] = replace(job.view, batch_key="same")
    simulate(fleet, Script({0.0: [both]}), None)
    assert ends_s(fleet) == [16.5, 16.5]


# what ends otherwise


def test_what_is_not_to_be_late_is_dropped_at_its_deadline_or_the_next_boundary() -> None:
    """Deadlines at 4. One waits and is dropped then; the other is in its loop, whose boundary is at 5.0."""
    config = FleetConfig(n_gpus=2, gpus_per_node=2, drop_if_late=True)
    fleet = simulated(Script({0.0: [run(G0)]}), [asked(0.0, slo_s=4.0), asked(0.0, slo_s=4.0)], config=config)
    assert [job.outcome for job in fleet.book.jobs] == [Outcome.DROPPED, Outcome.DROPPED]
    assert fleet.clock.now_s == 5.0
    assert ends_s(fleet) == [None, None]


def test_a_job_that_ends_at_its_deadline_is_on_time() -> None:
    config = FleetConfig(n_gpus=2, gpus_per_node=2, drop_if_late=True)
    fleet = simulated(Script({0.0: [run(G0)]}), [asked(0.0, slo_s=11.0)], config=config)
    assert fleet.book.jobs[0].outcome is Outcome.DONE
    assert fleet.book.jobs[0].is_on_time


def test_a_dead_worker_costs_its_gang_the_steps_behind_the_last_checkpoint() -> None:
    """Degree 2, loop from 1.0 in steps of 1.25 s, checkpoints every 2. At 5.0 it has done 3 and keeps 2. The
    survivor goes on alone at 5.0: 0.5 s to resume, two steps of 2 s, decode 2 s."""
    script = Script({0.0: [run(G0, G1)], 5.0: [run(G0, stages=("denoise", "decode"))]})
    fleet = simulated(script, [asked(0.0)], kill={5.0: G1})
    assert ends_s(fleet) == [5.0 + 0.5 + 4.0 + 2.0]
    usage_s = fleet.accounts.usage_s
    assert usage_s["denoise"] == 2 * 2.5 + 4.0
    assert usage_s["lost"] == 2 * 1.5
    assert fleet.workers.n_deaths == 1


def test_a_worker_that_dies_in_the_decode_costs_the_end_of_the_loop() -> None:
    """The loop's end is not in the store, its checkpoint behind two of four steps is. It is back 10 s later
    with nothing."""
    script = Script({0.0: [run(G0)], 10.0: [run(G1, stages=("denoise", "decode"))]})
    fleet = simulated(script, [asked(0.0)], kill={10.0: G0})
    assert ends_s(fleet) == [10.0 + 0.5 + 4.0 + 2.0]
    assert G0 not in {worker.worker_id for worker in script.seen[-1].workers}


def test_a_task_or_a_load_that_does_not_fit_is_an_outcome() -> None:
    """Weights 4 + 8 + 2 in a memory of 18: a small job's peak of 1 fits, a large one's of 6 does not. With 13
    the decode cannot be loaded beside the other two."""
    fits = simulated(
        Script({0.0: [run(G0), run(G1, job=1)]}),
        [asked(0.0), asked(0.0, LARGE)],
        costs=small_costs(memory_bytes=18),
    )
    assert [job.outcome for job in fits.book.jobs] == [Outcome.DONE, Outcome.OUT_OF_MEMORY]
    cold = FleetConfig(n_gpus=2, gpus_per_node=2, warm=False, lead_s=20.0)
    loads = [Load(worker=G0, model="small", stages=(stage,), reason=WHY) for stage in STAGES]
    script = Script({-20.0: loads, 1.0: []})
    simulated(script, [asked(0.0)], config=cold, costs=small_costs(memory_bytes=13))
    assert script.worker(G0, 1.0).failed == {("small", "decode")}
    assert script.worker(G0, 1.0).resident == {("small", "encode"), ("small", "denoise")}


def test_a_policy_that_does_nothing_leaves_everything_unfinished() -> None:
    fleet = simulated(Script({}), [asked(0.0), asked(1.0)])
    assert [job.outcome for job in fleet.book.jobs] == [Outcome.UNFINISHED] * 2


# what is refused

WRONG: Mapping[str, Sequence[Effect]] = {
    "a worker that is none": [run("g9")],
    "a job that is none": [run(G0, job=7)],
    "a job twice": [run(G0), run(G1)],
    "two tasks on one worker": [run(G0), run(G0, job=1)],
    "stages that are not next": [run(G0, stages=("denoise",))],
    "an encode on two workers": [run(G0, G1, stages=("encode",))],
    "one worker as two": [run(G0, G0)],
    "another degree than workers": [Run(stages=STAGES, jobs=("job-0",), workers=(G0,), degree=2)],
    "jobs that share no batch": [Run(stages=STAGES, jobs=("job-0", "job-1"), workers=(G0,))],
    "a join": [Run(stages=STAGES, jobs=("job-0",), workers=(G0,), joins="job-1")],
    "a gang over two nodes": [run(G0, "n001g0")],
    "a pause of nothing": [pause(G0)],
    "a pause of a task without a loop": [run(G0, stages=("encode",)), pause(G0)],
    "a second pause": [run(G0), pause(G0), pause(G0)],
    "a load of what is there": [Load(worker=G0, model="small", stages=("encode",), reason=WHY)],
    "a load of what is nowhere": [Load(worker=G0, model="small", stages=("upscale",), reason=WHY)],
    "an eviction under a task": [run(G0), Evict(worker=G0, model="small", stages=("decode",), reason=WHY)],
    "an eviction of what is gone": 2 * [Evict(worker=G0, model="small", stages=("decode",), reason=WHY)],
    "a run of what is gone": [Evict(worker=G0, model="small", stages=("decode",), reason=WHY), run(G0)],
    "a rejection of what runs": [run(G0), Reject(job="job-0", retry_after_s=1.0)],
    "fewer steps than agreed": [Degrade(job="job-0", steps=2)],
    "a wake-up that is due": [WakeAt(at_s=0.0)],
}


@pytest.mark.parametrize("effects", WRONG.values(), ids=WRONG.keys())
def test_effects_that_do_not_fit_are_refused(effects: Sequence[Effect]) -> None:
    config = FleetConfig(n_gpus=4, gpus_per_node=2)
    with pytest.raises(EffectRefused):
        simulated(Script({0.0: effects}), [asked(0.0), asked(0.0)], config=config)


# for every simulation

JOBS = st.lists(
    st.tuples(st.floats(0, 60), st.sampled_from((SMALL, LARGE)), st.floats(5, 200)), min_size=1, max_size=25
)
CONFIGS = st.builds(
    FleetConfig,
    n_gpus=st.sampled_from((2, 4)),
    gpus_per_node=st.just(2),
    drop_if_late=st.booleans(),
    noise=st.sampled_from((0.0, 0.2)),
    mean_life_s=st.sampled_from((None, 40.0)),
    restart_s=st.just(5.0),
    seed=st.integers(0, 3),
)


class Loader(Restless):
    """Loads everything wherever it is missing, since workers come back empty."""

    def __call__(self, state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        whole = [w for w in seen.workers if {stage for _, stage in w.resident} == set(STAGES)]
        _, effects = super().__call__(state, Observation(seen.now_s, seen.jobs, tuple(whole), seen.models))
        loads = [
            Load(worker=worker.worker_id, model="small", stages=STAGES, reason=WHY)
            for worker in seen.workers
            if not worker.resident and not worker.loading
        ]
        return None, (*effects, *loads)


@settings(max_examples=150, deadline=None)
@given(jobs=JOBS, config=CONFIGS)
def test_seconds_add_up_no_worker_is_in_two_stages_and_every_job_ends(
    jobs: list[tuple[float, Shape, float]], config: FleetConfig
) -> None:
    arrivals = sorted((asked(*job) for job in jobs), key=lambda arrival: arrival.at_s)
    spans: list[Span] = []
    fleet = Fleet(small_costs(), config, arrivals)
    fleet.accounts.on_span = spans.append
    simulate(fleet, Loader(small_costs(), drops=config.drop_if_late), None)
    assert len(fleet.book.jobs) == len(arrivals)
    assert all(job.outcome is not Outcome.UNFINISHED for job in fleet.book.jobs)
    by_worker: dict[str, list[Span]] = {}
    for span in spans:
        by_worker.setdefault(span.worker, []).append(span)
    for own in by_worker.values():
        own.sort(key=lambda span: span.began_s)
        assert all(a.ended_s <= b.began_s + 1e-6 for a, b in pairwise(own))
    used_s = fleet.accounts.usage_s
    if config.mean_life_s is None:
        for stage in STAGES:
            seconds = sum(span.ended_s - span.began_s for span in spans if span.stage == stage)
            assert used_s.get(stage, 0.0) == pytest.approx(seconds, abs=1e-6)
    devices = [*fleet.workers.live.values(), *fleet.workers.dead.values()]
    busy_s = sum(device.busy_s for device in devices)
    if all(not device.queue for device in devices):
        assert sum(used_s.values()) == pytest.approx(busy_s, abs=1e-6)
    assert min(used_s.values(), default=0.0) >= -1e-6


@settings(max_examples=30, deadline=None)
@given(jobs=JOBS, config=CONFIGS)
def test_the_same_simulation_twice_is_the_same(
    jobs: list[tuple[float, Shape, float]], config: FleetConfig
) -> None:
    arrivals = sorted((asked(*job) for job in jobs), key=lambda arrival: arrival.at_s)
    policy = Loader(small_costs(), drops=config.drop_if_late)
    one, two = (simulated(policy, arrivals, config=config) for _ in range(2))
    assert ends_s(one) == ends_s(two)
    assert one.accounts.usage_s == two.accounts.usage_s
