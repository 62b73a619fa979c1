from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.contact_sheet import Section, Tile, sheet, write_sheet
from bench.journal import Journal, JournalUnreadable, placement_changes, read_journal
from bench.timeline import WARM_UP, Panel, panel
from bench.timeline_plot import draw
from tests.bench.fake import png

EVERY = ["text_encoder", "denoise", "decode"]


def stage(
    worker: str, job: str | None, name: str, started_s: float, ended_s: float, **more: Any
) -> dict[str, Any]:
    kind = {"text_encoder": "encode", "denoise": "diffuse", "decode": "decode"}[name]
    request = job.rpartition("-")[0] if job else None
    fields = {
        "event": "stage",
        "worker": worker,
        "job": job,
        "request": request,
        "model": "tiny",
        "stage": name,
    }
    times = {"started_at_s": started_s, "ended_at_s": ended_s, "overhead_s": 0.001, "steps": 1}
    return fields | {"kind": kind} | times | more


def effect(
    kind: str, worker: str, stages: list[str], reason: str, at_s: float, detail: str = ""
) -> dict[str, Any]:
    return {
        "event": "effect",
        "effect": kind,
        "worker": worker,
        "stages": stages,
        "reason": reason,
        "detail": detail,
        "at_s": at_s,
    }


EVENTS: list[dict[str, Any]] = [
    {"event": "worker", "worker": "cpu-1", "state": "up", "at_s": 1.0},
    {"event": "worker", "worker": "cpu-0", "state": "up", "at_s": 1.1},
    effect("load", "cpu-0", EVERY, "initial_placement", 2.0),
    effect("load", "cpu-1", EVERY, "initial_placement", 2.0),
    stage("cpu-0", None, "text_encoder", 3.0, 3.5),
    stage("cpu-1", None, "denoise", 9.9, 10.1),
    {**effect("run", "cpu-0", ["text_encoder"], "earliest_deadline", 10.0), "job": "a-0"},
    stage("cpu-0", "a-0", "text_encoder", 10.0, 10.1),
    stage("cpu-1", "a-0", "denoise", 10.3, 11.3),
    stage("cpu-0", "a-0", "decode", 11.4, 11.6),
    stage("cpu-1", "b-1", "text_encoder", 11.4, 11.5),
    stage("cpu-1", "b-1", "denoise", 11.5, 11.9),
    effect("evict", "cpu-0", ["denoise"], "mix_shifted", 12.0, "denoise took 55 %"),
    effect("evict", "cpu-1", ["text_encoder", "decode"], "mix_shifted", 12.4, "denoise took 55 %"),
    effect("load", "cpu-0", ["denoise"], "mix_shifted", 15.0, "denoise took 93 %"),
    effect("load", "cpu-1", ["text_encoder", "decode"], "mix_shifted", 15.0, "denoise took 93 %"),
    {
        "event": "request",
        "request": "a",
        "outcome": "done",
        "times_s": {"total": 1.6},
        "deadline_s": 5.0,
        "deadline_met": True,
        "at_s": 11.61,
    },
]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    file = tmp_path / "journal.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS) + '{"event":"sta', "utf-8")
    return read_journal(file)


@pytest.fixture
def shown(journal: Journal) -> Panel:
    changes = placement_changes(journal.effects, since_s=10.0)
    return panel(
        "auto",
        journal,
        {"a-0": "1", "b-1": "2b"},
        start_s=10.0,
        changes=changes,
    )


def test_reads_all_but_an_unfinished_line(journal: Journal) -> None:
    assert journal.workers == ("cpu-1", "cpu-0")
    assert len(journal.stages) == 7
    assert [e.effect for e in journal.effects] == ["load", "load", "evict", "evict", "load", "load"]
    assert journal.ends[0].times_s == {"total": 1.6}
    assert journal.stage_kinds == {"text_encoder": "encode", "denoise": "diffuse", "decode": "decode"}


@pytest.mark.parametrize("text", ["{\n", '{"event":"stage"}\n', "[]\n"])
def test_refuses_what_is_no_journal(tmp_path: Path, text: str) -> None:
    (tmp_path / "j").write_text(text)
    with pytest.raises(JournalUnreadable, match="j:1:"):
        read_journal(tmp_path / "j")
    with pytest.raises(JournalUnreadable, match="No such file"):
        read_journal(tmp_path / "none")


def test_placement_changes_are_decisions_not_effects(journal: Journal) -> None:
    split, joined = placement_changes(journal.effects, since_s=10.0)
    assert (split.at_s, len(split.effects), split.is_colocated) == (12.0, 2, False)
    assert split.homes == {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)}
    assert split.places == "split: cpu-0 text_encoder+decode, cpu-1 denoise"
    assert (split.reason, split.detail) == ("mix_shifted", "denoise took 55 %")
    assert (joined.at_s, len(joined.effects), joined.is_colocated) == (15.0, 2, True)
    assert (joined.reason, joined.detail) == ("mix_shifted", "denoise took 93 %")


def test_placement_changes_at_the_start_do_not_count(journal: Journal) -> None:
    assert len(placement_changes(journal.effects, since_s=0.0)) == 2
    assert len(placement_changes(journal.effects, since_s=13.0)) == 1
    assert placement_changes(journal.effects, since_s=16.0) == []
    assert placement_changes(journal.effects[:2], since_s=0.0) == []


def test_evictions_behind_loads_belong_to_them(journal: Journal) -> None:
    joined = journal.effects[4:]
    evicted = replace(joined[0], effect="evict", worker="cpu-1", stages=("denoise",), at_s=16.0)
    loads_then_evicts = (*journal.effects[:2], *joined, evicted)
    assert [len(c.effects) for c in placement_changes(loads_then_evicts, since_s=10.0)] == [3]


def test_lanes_and_blocks(shown: Panel) -> None:
    assert shown.lanes == ("cpu-0", "cpu-1")
    told = [(b.lane, b.kind, b.label, round(b.start_s, 3), round(b.end_s, 3)) for b in shown.blocks]
    assert told == [
        (1, WARM_UP, "", -0.1, 0.1),
        (0, "encode", "1", 0.0, 0.1),
        (1, "diffuse", "1", 0.3, 1.3),
        (0, "decode", "1", 1.4, 1.6),
        (1, "encode", "2b", 1.4, 1.5),
        (1, "diffuse", "2b", 1.5, 1.9),
    ]
    assert shown.end_s == pytest.approx(1.9)


def test_a_paused_loop_is_two_blocks(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    events = [
        *EVENTS[:2],
        {**stage("cpu-0", "a-0", "denoise", 1.0, 2.0, from_step=0), "event": "left"},
        stage("cpu-1", "a-0", "denoise", 3.0, 4.0, from_step=5),
    ]
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    journal = read_journal(file)
    assert (len(journal.stages), len(journal.left)) == (1, 1)
    drawn = panel("paused", journal, {"a-0": "1"}, start_s=0.0)
    assert [(b.lane, b.kind, b.start_s, b.end_s) for b in drawn.blocks] == [
        (0, "diffuse", 1.0, 2.0),
        (1, "diffuse", 3.0, 4.0),
    ]
    assert [(h.from_lane, h.to_lane) for h in drawn.handovers] == [(0, 1)]


def test_handovers_are_between_workers_only(shown: Panel) -> None:
    told = [(h.label, h.kind, h.from_lane, h.to_lane) for h in shown.handovers]
    assert told == [("1", "encode", 0, 1), ("1", "diffuse", 1, 0)]
    assert [(round(h.from_s, 3), round(h.to_s, 3)) for h in shown.handovers] == [(0.1, 0.3), (1.3, 1.4)]


def test_marks(shown: Panel) -> None:
    assert [round(mark.at_s, 3) for mark in shown.marks] == [2.0, 5.0]
    assert shown.marks[1].reason == "mix_shifted: denoise took 93 %"


def test_timeline_is_drawn(shown: Panel, tmp_path: Path) -> None:
    draw(tmp_path / "timeline.png", "Title", "where", [shown, panel("none", _empty(), {}, start_s=0.0)])
    with Image.open(tmp_path / "timeline.png") as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or ()) > 20


def test_contact_sheet(tmp_path: Path) -> None:
    tiles = tuple(
        Tile(png=png(str(i)), caption="a very long prompt " * i, detail=f"seed {i}") for i in range(9)
    )
    one_row = sheet("T", "s", [Section(title="A", note="n", tiles=tiles[:7])])
    two_rows = sheet("T", "s", [Section(title="A", note="n", tiles=tiles)])
    assert two_rows.width == one_row.width
    assert two_rows.height > one_row.height + 184
    write_sheet(tmp_path / "sheet.png", "T", "s", [Section(title="A", note="n", tiles=tiles)])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == two_rows.size
        assert len(image.getcolors(1 << 24) or ()) > 20


def _empty() -> Journal:
    return Journal(workers=("cpu-0",), stages=(), effects=(), ends=())
