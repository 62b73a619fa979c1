"""Reports, journals, tables and plots of simulations, and the command that makes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.journal import placement_changes, read_journal
from bench.render import render_file
from bench.simulate import EffectRefused, Fleet, FleetConfig, simulate
from bench.simulate.cell import UnknownPolicy, config_of
from bench.simulate.result import report
from bench.simulate.save import Recorder
from bench.simulate_command import main
from planner.types import Effect, Evict, Load, Observation, Reason, Reject, Run
from tests.bench.simple_policies import Earliest
from tests.bench.small_costs import SMALL, STAGES, asked, small_costs

PAIR = FleetConfig(n_gpus=2, gpus_per_node=2)
SMALL_FLAGS = (
    "--models",
    "flux",
    "--arrivals",
    "poisson",
    "--minutes",
    "1",
    "--gpus",
    "16",
    "--processes",
    "1",
)


def test_a_report_counts_by_hand() -> None:
    """Three jobs of 11 s on two workers: 11, 12 and 22 s, the last too late; one is rejected."""

    class First(Earliest):
        def __call__(self, state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
            if seen.now_s == 30.0:
                return None, (Reject(job="job-3", retry_after_s=1.0),)
            return super().__call__(state, seen)

    arrivals = [asked(0.0), asked(1.0), asked(2.0, slo_s=7.0), asked(30.0)]
    fleet = Fleet(small_costs(), PAIR, arrivals)
    decisions = simulate(fleet, First(small_costs(), drops=False), None)
    row = report(fleet, decisions)
    assert (row["n"], row["attainment"], row["dropped_share"]) == (4, 0.5, 0.25)
    assert row["outcomes"] == {"done": 3, "rejected": 1, "dropped": 0, "out_of_memory": 0, "unfinished": 0}
    assert row["served"]["mean"] == pytest.approx((11 + 11 + 20) / 3)
    assert row["served"]["p50"] == 11.0
    assert row["all"] == {"mean": None, "p50": 15.5, "p95": None, "p99": None}
    assert row["goodput_per_s"] == 2 / 30.0
    assert row["gpu_s"] == {"decode": 6.0, "denoise": 24.0, "encode": 3.0}
    assert row["busy_share"] == pytest.approx(33.0 / (2 * 30.0))
    assert row["decisions"] == len(decisions.seconds)
    assert row["by_shape"] == [{"model": "small", "shape": [128, 128, 1], "n": 4, "attainment": 0.5}]


def test_a_journal_of_a_simulation_is_read_like_the_gateways(tmp_path: Path) -> None:
    why = Reason.MIX_SHIFTED

    def policy(state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        if seen.now_s == 0.0:
            run = Run(stages=STAGES, jobs=("job-0",), workers=("n000g0", "n000g1"), degree=2)
            return None, (run,)
        if seen.now_s == 20.0:
            return None, (
                Evict(worker="n000g1", model="small", stages=("encode",), reason=why, detail="less encode"),
            )
        if seen.now_s == 30.0:
            return None, (
                Load(worker="n000g1", model="small", stages=("encode",), reason=why, detail="less encode"),
            )
        return None, ()

    recorder = Recorder()
    fleet = Fleet(small_costs(), PAIR, [asked(0.0), asked(20.0), asked(30.0)])
    recorder.watch(fleet)
    simulate(fleet, policy, None, on_effect=recorder.effect)
    file = tmp_path / "journal.jsonl"
    recorder.write(file)
    journal = read_journal(file)
    assert journal.workers == ("n000g0", "n000g1")
    spans = [(span.worker, span.job, span.kind, span.started_s, span.ended_s) for span in journal.stages]
    assert spans == [
        ("n000g0", "job-0", "encode", 0.0, 1.0),
        ("n000g0", "job-0", "diffuse", 1.0, 6.0),
        ("n000g1", "job-0@n000g1", "diffuse", 1.0, 6.0),
        ("n000g0", "job-0", "decode", 6.0, 8.0),
    ]
    assert [(effect.effect, effect.at_s) for effect in journal.effects] == [("evict", 20.0), ("load", 30.0)]
    assert len(placement_changes(journal.effects, since_s=0.0)) == 1
    (end,) = journal.ends
    assert (end.request, end.outcome, end.times_s, end.deadline_met) == (
        "job-0",
        "done",
        {"total": 8.0},
        True,
    )
    whole = frozenset(("small", stage) for stage in STAGES)
    assert recorder.holdings[-3:] == [
        (0.0, {whole: 2}),
        (20.0, {whole: 1, whole - {("small", "encode")}: 1}),
        (33.0, {whole: 2}),
    ]


def test_policies_are_named_with_their_degree() -> None:
    assert config_of("fcfs:4").static_degree == 4
    assert config_of("fair").policy == "fair"
    with pytest.raises(UnknownPolicy):
        config_of("fcfs:x")


def test_the_command_prints_a_table_and_writes_what_it_is_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SMALL_FLAGS, "--loads", "0.5,1.5", "--policies", "fair,fcfs:2", "--out", str(tmp_path)]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    result: dict[str, Any] = json.loads((tmp_path / "simulate.json").read_text())
    assert [(row["load"], row["policy"]) for row in result["runs"]] == [
        (0.5, "fair"),
        (0.5, "fcfs:2"),
        (1.5, "fair"),
        (1.5, "fcfs:2"),
    ]
    by_load = {row["load"]: row["attainment"] for row in result["bounds"]}
    assert all(row["attainment"] <= by_load[row["load"]] + 1e-9 for row in result["runs"])
    assert "| flux | poisson | bound | 100.0 |" in printed
    assert (tmp_path / "simulate.md").read_text() in printed
    rendered = render_file(tmp_path / "simulate.json").read_text()
    assert rendered in printed
    assert (tmp_path / "simulate.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_gives_the_same_figures_twice(tmp_path: Path) -> None:
    rows = []
    for name in ("one", "two"):
        flags = [*SMALL_FLAGS, "--loads", "1.0", "--noise", "0.1", "--mean-life-s", "300"]
        assert main([*flags, "--policies", "triptych", "--out", str(tmp_path), "--name", name]) == 0
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["bounds"] == []
        (row,) = result["runs"]
        rows.append(
            {key: value for key, value in row.items() if not key.startswith("decision_") and key != "cpu_s"}
        )
    assert rows[0] == rows[1]
    assert math.isfinite(rows[0]["served"]["mean"])


def test_a_saved_simulation_is_a_journal_and_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert main([*SMALL_FLAGS, "--loads", "1.0", "--policies", "fair", "--save", str(file)]) == 0
    assert read_journal(file).stages
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert main([*SMALL_FLAGS, "--loads", "1.0,1.2", "--policies", "fair", "--save", str(file)]) == 2


@pytest.mark.parametrize(
    "flags",
    [("--models", "sd9"), ("--arrivals", "never"), ("--policies", "best"), ("--policies", "fcfs:x")],
)
def test_what_is_unknown_is_refused(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(list(flags))
    assert refused.value.code == 2


def test_a_trace_that_cannot_be_read_ends_the_command(tmp_path: Path) -> None:
    assert main(["--models", "flux", "--trace", str(tmp_path / "none.jsonl")]) == 1


def test_a_policy_that_asks_for_the_impossible_ends_the_simulation() -> None:
    def policy(state: None, seen: Observation) -> tuple[None, tuple[Effect, ...]]:
        return None, (Run(stages=STAGES, jobs=("job-0",), workers=("g9",)),)

    with pytest.raises(EffectRefused, match="there is no g9"):
        simulate(Fleet(small_costs(), PAIR, [asked(0.0, SMALL)]), policy, None)
