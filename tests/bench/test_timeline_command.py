"""A journal of a simulation as a picture."""

from __future__ import annotations

import math
from pathlib import Path

from bench.journal import read_journal
from bench.simulate import Fleet, FleetConfig, simulate
from bench.simulate.save import Recorder
from bench.timeline_command import main, panel_of
from planner.types import Effect, Observation, Run
from tests.bench.small_costs import STAGES, asked, small_costs

WORKERS = ("n000g0", "n000g1")


def saved(file: Path) -> Path:
    """One job on both workers: encode 0-1 and decode 6-8 on the first, the loop 1-6 on both; a second from
    20 on."""

    def policy(state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        waiting = [job.job_id for job in seen.jobs if not job.running]
        runs = [Run(stages=STAGES, jobs=(job,), workers=WORKERS, degree=2) for job in waiting]
        return None, tuple(runs)

    recorder = Recorder()
    fleet = Fleet(small_costs(), FleetConfig(n_gpus=2, gpus_per_node=2), [asked(0.0), asked(20.0)])
    recorder.watch(fleet)
    simulate(fleet, policy, None, on_effect=recorder.effect)
    recorder.write(file)
    return file


def test_a_gang_s_members_have_one_number_and_a_lane_each(tmp_path: Path) -> None:
    journal = read_journal(saved(tmp_path / "events.jsonl"))
    made = panel_of(journal, from_s=0.0, span_s=10.0, n_workers=2)
    assert made is not None
    assert made.lanes == WORKERS
    assert sorted((b.lane, b.stage, b.label, b.start_s, b.end_s) for b in made.blocks) == [
        (0, "decode", "1", 6.0, 8.0),
        (0, "denoise", "1", 1.0, 6.0),
        (0, "encode", "1", 0.0, 1.0),
        (1, "denoise", "1", 1.0, 6.0),
    ]
    later = panel_of(journal, from_s=10.0, span_s=math.inf, n_workers=1)
    assert later is not None
    assert {(block.lane, block.label, block.start_s) for block in later.blocks} == {
        (0, "2", 10.0),
        (0, "2", 11.0),
        (0, "2", 16.0),
    }
    assert panel_of(journal, from_s=100.0, span_s=1.0, n_workers=2) is None


def test_the_command_draws_it(tmp_path: Path) -> None:
    file = saved(tmp_path / "events.jsonl")
    assert main([str(file), "--span-s", "10"]) == 0
    assert (tmp_path / "events-timeline.png").read_bytes().startswith(b"\x89PNG")
    assert main([str(file), "--from-s", "100"]) == 1
    assert main([str(tmp_path / "none.jsonl")]) == 1
