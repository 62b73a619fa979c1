"""The journal's thread: what it does when its file or its queue is full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.journal import Journal


def test_strings_stay_within_their_line(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    with Journal(file) as journal:
        journal.record("kill", reason='a\n{"event": "forged"}\u2028')
    (line,) = file.read_text().splitlines()
    assert json.loads(line) == {"event": "kill", "reason": 'a\n{"event": "forged"}\u2028'}


def test_a_full_disk_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with Journal(Path("/dev/full")) as journal:
        for number in range(3):
            journal.record("kill", number=number)
    assert journal.statistics()["dropped"] == 3
    assert [record.message for record in caplog.records] == [
        "journal: lines are lost: No space left on device"
    ]


def test_a_queue_without_room_drops_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gateway.journal._MAX_LINES", 2)
    journal = Journal(tmp_path / "journal.jsonl")
    journal._file = open(tmp_path / "journal.jsonl", "ab", buffering=0)  # noqa: SIM115
    for _ in range(5):
        journal.record("kill")
    assert journal.statistics() == {"waiting": 2, "dropped": 3}
    journal._file.close()
