"""Whole runs on the simulated fleet, worked by hand."""

from dataclasses import replace
from itertools import pairwise

from planner import Evict, PlannerConfig, Reason, decide
from tests.planner.fleet import Fleet, Ran
from tests.planner.values import EVERY, LOOP, MODELS, REST, TINY, stages

BALANCED = {"encode": 2.0, "denoise": 3.0, "decode": 1.0}
DENOISE_HEAVY = {"encode": 0.3, "denoise": 5.4, "decode": 0.3}
PINNED_SPLIT = PlannerConfig(pinned={"w0": ("encode", "decode"), "w1": ("denoise",)})
DECODE_HEAVY = {"encode": 0.3, "denoise": 0.9, "decode": 4.8}
CO_LOCATED = {"w0": EVERY, "w1": EVERY}
SIZED = {
    "tiny": replace(TINY, weight_bytes=dict.fromkeys(TINY.stages, 1), load_s=dict.fromkeys(TINY.stages, 1.0))
}
"""Of one byte a stage; in 2 bytes two of the three have room."""


def two_workers(stage_s: dict[str, float], config: PlannerConfig | None = None, load_s: float = 1.0) -> Fleet:
    fleet = Fleet(MODELS, config or PlannerConfig(), stage_s, load_s)
    fleet.start("w0")
    fleet.start("w1")
    return fleet


def steady(fleet: Fleet, first_s: float, last_s: float, every_s: float = 4.0) -> int:
    """One job every `every_s`, with deadlines in order of arrival; returns how many."""
    n = int((last_s - first_s) / every_s)
    for place in range(n):
        at_s = first_s + place * every_s
        fleet.submit(f"job at {at_s:05.1f}", deadline_s=at_s + 30.0, at_s=at_s)
    return n


def test_a_cold_worker_loads_everything_and_then_runs_the_job_as_one_task() -> None:
    fleet = Fleet(MODELS, PlannerConfig(), BALANCED, load_s=1.0)
    fleet.start("w0", 1.0)
    fleet.submit("a", deadline_s=30.0)
    fleet.run()
    assert fleet.ran == [
        Ran("a", "encode", "w0", 4.0, 6.0),
        Ran("a", "denoise", "w0", 6.0, 9.0),
        Ran("a", "decode", "w0", 9.0, 10.0),
    ]


def test_two_jobs_overlap_on_a_split_fleet() -> None:
    fleet = Fleet(MODELS, PINNED_SPLIT, {"encode": 1.0, "denoise": 4.0, "decode": 1.0})
    fleet.start("w0", resident=REST)
    fleet.start("w1", resident=LOOP)
    fleet.submit("b", deadline_s=30.0)
    fleet.submit("a", deadline_s=20.0)
    fleet.run()
    assert fleet.ran == [
        Ran("a", "encode", "w0", 0.0, 1.0),
        Ran("b", "encode", "w0", 1.0, 2.0),
        Ran("a", "denoise", "w1", 1.0, 5.0),
        Ran("a", "decode", "w0", 5.0, 6.0),
        Ran("b", "denoise", "w1", 5.0, 9.0),
        Ran("b", "decode", "w0", 9.0, 10.0),
    ]


def test_an_urgent_job_overtakes_those_that_wait_and_not_the_one_that_runs() -> None:
    fleet = Fleet(MODELS, PlannerConfig(), BALANCED)
    fleet.start("w0", resident=EVERY)
    for job_id, deadline_s, at_s in (("first", 50.0, 0.0), ("second", 60.0, 0.0), ("urgent", 20.0, 1.0)):
        fleet.submit(job_id, deadline_s, at_s)
    fleet.run()
    assert fleet.finished_s == {"first": 6.0, "urgent": 12.0, "second": 18.0}


def capped(stage_s: dict[str, float]) -> Fleet:
    fleet = Fleet(SIZED, PlannerConfig(), stage_s, memory_bytes=2)
    fleet.start("w0")
    fleet.start("w1")
    return fleet


def test_a_fleet_with_room_for_everything_is_never_split() -> None:
    fleet = two_workers(DENOISE_HEAVY)
    fleet.at(100.0, lambda: fleet.stage_s.update(DECODE_HEAVY))
    n = steady(fleet, 0.0, 300.0)
    fleet.run()
    assert {tuple(placement.stages.values()) for placement in fleet.placements} == {(EVERY, EVERY)}
    assert fleet.effects(Evict) == []
    assert len(fleet.finished_s) == n


def test_the_placement_follows_the_mix_there_and_back_without_flapping() -> None:
    fleet = capped(DENOISE_HEAVY)
    fleet.at(100.0, lambda: fleet.stage_s.update(DECODE_HEAVY))
    fleet.at(400.0, lambda: fleet.stage_s.update(DENOISE_HEAVY))
    n = steady(fleet, 0.0, 700.0)
    loops = {"w0": stages("denoise", "decode"), "w1": stages("encode", "denoise")}
    fleet.run(99.0)
    assert fleet.placements[-1].stages == loops
    fleet.run(399.0)
    decodes = {"w0": stages("denoise", "decode"), "w1": stages("encode", "decode")}
    assert fleet.placements[-1].stages == decodes
    assert fleet.resident("w1") == {"encode", "decode"}
    fleet.run()
    assert fleet.placements[-1].stages == loops
    shifts = [p for p in fleet.placements if p.reason is Reason.MIX_SHIFTED]
    assert [p.stages for p in shifts] == [decodes, loops]
    # as soon as the profile has learnt it
    assert 100.0 < shifts[0].changed_s < 200.0
    assert 400.0 < shifts[1].changed_s < 500.0
    assert len(fleet.finished_s) == n


def test_throughput_is_never_zero_while_stages_move() -> None:
    fleet = capped(DENOISE_HEAVY)
    fleet.at(100.0, lambda: fleet.stage_s.update(DECODE_HEAVY))
    steady(fleet, 0.0, 300.0)
    fleet.run()
    ended_s = sorted(ran.ended_s for ran in fleet.ran if 50.0 < ran.ended_s < 300.0)
    assert max(later - earlier for earlier, later in pairwise(ended_s)) < 7.0


def test_a_mix_that_wavers_changes_nothing() -> None:
    fleet = capped({"encode": 0.8, "denoise": 2.0, "decode": 2.2})
    for place in range(60):
        decode_s = 2.0 if place % 2 else 2.4
        fleet.at(8.0 * place, lambda decode_s=decode_s: fleet.stage_s.update(decode=decode_s))  # type: ignore[misc]
    n = steady(fleet, 0.0, 480.0)
    fleet.run()
    assert [p.reason for p in fleet.placements if p.reason is Reason.MIX_SHIFTED] == []
    assert len(fleet.finished_s) == n


def test_two_models_share_a_worker_that_can_hold_one() -> None:
    other = replace(SIZED["tiny"], model="other")
    config = PlannerConfig(min_dwell_s=10.0)
    fleet = Fleet({**SIZED, "other": other}, config, {"encode": 1.0, "denoise": 2.0, "decode": 1.0}, 1.0, 3)
    fleet.start("w0")
    for place in range(20):
        model = "tiny" if place % 2 else "other"
        fleet.submit(f"job {place:02}", 20.0 + 5.0 * place, 5.0 * place, model=model)
    fleet.run()
    assert len(fleet.finished_s) == 20
    # each swap is 3 s of loading; never back within the dwell
    swaps = [placement.changed_s for placement in fleet.placements if placement.reason is Reason.NEEDED_NOW]
    assert 2 <= len(swaps) <= 10
    assert all(later - earlier >= 13.0 for earlier, later in pairwise(swaps))
    assert all("waits for" in placement.detail for placement in fleet.placements[1:])


def test_a_stage_leaves_a_worker_only_when_another_has_it() -> None:
    config = PlannerConfig(pinned={"w0": ("encode", "decode"), "w1": ("denoise",)})
    fleet = Fleet(MODELS, config, BALANCED, load_s=5.0)
    fleet.start("w0", resident=EVERY)
    fleet.start("w1")
    fleet.submit("a", deadline_s=10.0)
    fleet.submit("b", deadline_s=20.0)
    fleet.run()
    # w1 is ready at 5 s; w0 has then left to decode "a" and does not need the loop any more
    assert [(at_s, e.worker, e.stages) for at_s, e in fleet.effects(Evict) if isinstance(e, Evict)] == [
        (5.0, "w0", ("denoise",))
    ]
    assert [(ran.job_id, ran.stage, ran.worker) for ran in fleet.ran] == [
        ("a", "encode", "w0"),
        ("a", "denoise", "w0"),
        ("a", "decode", "w0"),
        ("b", "encode", "w0"),
        ("b", "denoise", "w1"),
        ("b", "decode", "w0"),
    ]


def test_a_pinned_fleet_without_a_stage_lets_jobs_wait_for_its_worker() -> None:
    fleet = Fleet(MODELS, PINNED_SPLIT, BALANCED)
    fleet.start("w0", resident=REST)
    fleet.submit("a", deadline_s=10.0)
    fleet.run(60.0)
    assert [ran.stage for ran in fleet.ran] == ["encode"]
    fleet.start("w1", 61.0)
    fleet.run()
    assert fleet.finished_s == {"a": 66.0}


def test_the_survivor_of_a_split_takes_what_jobs_wait_for_and_gives_it_back() -> None:
    fleet = capped(DENOISE_HEAVY)
    n = steady(fleet, 0.0, 200.0, every_s=8.0)
    fleet.run(50.0)
    assert fleet.placements[-1].stages == {
        "w0": stages("denoise", "decode"),
        "w1": stages("encode", "denoise"),
    }
    fleet.kill("w0", 51.0)
    fleet.run(51.5)
    assert fleet.placements[-1].changed_s == 51.0
    # two of three have room on the one that is left
    assert fleet.placements[-1].homeless == stages("decode")
    fleet.start("w0", 120.0)
    fleet.run()
    assert [p.reason for p in fleet.placements if p.changed_s > 51.0].count(Reason.NEEDED_NOW) >= 2
    assert fleet.placements[-1].homeless == frozenset()
    assert len(fleet.finished_s) == n


def test_a_job_whose_worker_dies_runs_again_from_the_last_task_that_ended() -> None:
    fleet = Fleet(MODELS, PINNED_SPLIT, BALANCED)
    fleet.start("w0", resident=REST)
    fleet.start("w1", resident=LOOP)
    fleet.submit("a", deadline_s=10.0)
    fleet.kill("w1", 4.0)
    fleet.start("w1", 6.0)
    fleet.run()
    assert fleet.ran == [
        Ran("a", "encode", "w0", 0.0, 2.0),
        Ran("a", "denoise", "w1", 7.0, 10.0),
        Ran("a", "decode", "w0", 10.0, 11.0),
    ]


def test_the_profile_is_learnt_from_what_ran() -> None:
    fleet = two_workers(BALANCED)
    steady(fleet, 0.0, 40.0)
    fleet.run()
    shape = fleet.calls[-2].observation.jobs[0].shape
    assert fleet.state.profile.job_s("", MODELS["tiny"], ("encode", "denoise", "decode"), shape, 8) == 9.0


def test_the_same_observations_give_the_same_effects_again() -> None:
    fleet = two_workers(BALANCED)
    steady(fleet, 0.0, 200.0)
    fleet.kill("w1", 90.0)
    fleet.start("w1", 95.0)
    fleet.run()
    state = fleet.calls[0].before
    for call in fleet.calls:
        state, effects = decide(state, call.observation)
        assert (state, effects) == (call.after, call.effects)
