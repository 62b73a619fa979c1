"""Log lines: one record is one line, whatever the strings hold, and nobody waits for a slow reader."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest

from gateway.logs import LogFormat, logging_to

NASTY = (
    'a "hat"\n2026-01-31 12:00:00,000 ERROR gateway: forged\r\x1b[2J\u2028\u202e\x00 \ud800 {"level":"error"}'
)
log = logging.getLogger("gateway.of_tests")


def written(form: LogFormat, *, level: str = "info", **extra: Any) -> str:
    stream = io.StringIO()
    with logging_to(stream, level=level, form=form):
        log.info("it said %s", NASTY, extra=extra)
        log.debug("not told")
    return stream.getvalue()


def test_a_record_is_one_object_of_json() -> None:
    (text, end) = written("json", fields={"status": 200, "model": NASTY, "slack_s": float("nan")}).split("\n")
    assert end == ""
    line = json.loads(text, parse_constant=pytest.fail)
    assert line["message"] == f"it said {NASTY}"
    assert (line["level"], line["logger"], line["status"]) == ("info", "gateway.of_tests", 200)
    assert (line["model"], line["slack_s"]) == (NASTY, "NaN")
    assert line["at"].endswith("Z")


def test_a_record_is_one_line_of_text() -> None:
    text = written("text", fields={"status": 200, "model": NASTY, "empty": "", "workers": ["cpu-0"]})
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert "INFO gateway.of_tests: it said a " in text
    assert ' status=200 model="a \\"hat\\"\\n2026' in text
    assert ' empty="" workers=["cpu-0"]' in text


def test_fields_cannot_stand_for_what_the_line_says_itself() -> None:
    line = json.loads(written("json", fields={"level": "error", "logger": "another"}))
    assert list(line)[:4] == ["at", "level", "logger", "message"]
    assert (line["level"], line["logger"]) == ("info", "gateway.of_tests")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_cannot_pass_for_lines(form: LogFormat) -> None:
    stream = io.StringIO()
    with logging_to(stream, level="info", form=form):
        try:
            raise ValueError(NASTY)
        except ValueError:
            log.exception("a bug")
    first, *rest = stream.getvalue().removesuffix("\n").split("\n")
    assert "a bug" in first
    if form == "json":
        assert rest == []
        assert NASTY in json.loads(first)["traceback"]
    else:
        assert len(rest) > 3
        assert all(line.startswith("    | ") and line.isprintable() for line in rest)


def test_levels_and_handlers_are_put_back() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    stream = io.StringIO()
    with logging_to(stream, level="debug", form="text"):
        log.debug("told")
    assert "DEBUG" in stream.getvalue()
    assert (root.level, list(root.handlers)) == before


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.go_on.wait(10)
        return super().write(text)


def test_a_reader_that_does_not_read_stops_nothing() -> None:
    stream = Stuck()
    with logging_to(stream, level="info", form="text", max_lines=5) as logs:
        log.info("line 0")
        assert stream.reached.wait(10)
        for number in range(1, 20):
            log.info("line %d", number)
        assert logs.statistics() == {"waiting": 5, "dropped": 14}
        stream.go_on.set()
    lines = stream.getvalue().splitlines()
    assert [line.rpartition(" ")[2] for line in lines if "gateway.of_tests" in line] == list("012345")
    assert sum("14 lines of the log were dropped" in line for line in lines) == 1


def test_a_stop_does_not_wait_for_ever_for_a_stuck_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.logs._LAST_LINES_S", 0.01)
    stream = Stuck()
    with logging_to(stream, level="info", form="text"):
        log.info("never told")
        assert stream.reached.wait(10)
    assert stream.getvalue() == ""
    stream.go_on.set()


def test_an_argument_that_changes_later_is_told_as_it_was() -> None:
    stream = Stuck()
    with logging_to(stream, level="info", form="text"):
        told = ["before"]
        log.info("%s", told)
        told[0] = "after"
        stream.go_on.set()
    assert "['before']" in stream.getvalue()
