"""The log of the process: lines of text or of JSON on stderr, written by a thread.

The event loop only puts a record into a bounded queue, so a reader that does not read (a full pipe) stops
nothing: over the bound lines are dropped, counted, and told as a number once there is room again. A record
is exactly one line of JSON. In text it is one line too, and what follows it (a traceback) is indented, so
that no string from outside, whatever it holds, can pass for a line of its own.

A record may carry values beside its message: `log.info("request", extra={"fields": {"status": 200}})`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from logging.handlers import QueueHandler
from typing import Any, Literal, TextIO

LogFormat = Literal["text", "json"]

_MAX_LINES = 10_000
_LAST_LINES_S = 2.0
_INDENT = "    | "
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+@,*")


class Logs:
    """What became of the lines. `n_dropped`: those for which there was no room."""

    def __init__(self, max_lines: int = _MAX_LINES) -> None:
        self.lines: queue.Queue[logging.LogRecord | None] = queue.Queue(max_lines)
        self.n_dropped = 0

    def statistics(self) -> dict[str, int]:
        """Lines that wait to be written, and lines that were dropped."""
        return {"waiting": self.lines.qsize(), "dropped": self.n_dropped}


@contextlib.contextmanager
def logging_to(stream: TextIO, *, level: str, form: LogFormat, max_lines: int = _MAX_LINES) -> Iterator[Logs]:
    """Everything that is logged goes to `stream` from `with` to its end, which writes what is queued.

    That end waits at most two seconds for a stream that does not take it.
    """
    logs = Logs(max_lines)
    writer = logging.StreamHandler(stream)
    writer.setFormatter(JsonLines() if form == "json" else TextLines())
    thread = threading.Thread(target=_write, args=(logs, writer), name="log", daemon=True)
    handler = _Handler(logs)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    thread.start()
    try:
        yield logs
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        with contextlib.suppress(queue.Full):
            logs.lines.put(None, timeout=_LAST_LINES_S)
        thread.join(_LAST_LINES_S)


def n_dropped_lines() -> int:
    """Lines that were dropped, of all that is logged in this process now."""
    return sum(h.logs.n_dropped for h in logging.getLogger().handlers if isinstance(h, _Handler))


class TextLines(logging.Formatter):
    """`2026-01-31 12:00:00,000 INFO gateway.x: message key=value`, with what is no plain word in quotes."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{self.formatTime(record)} {record.levelname} {record.name}: {_one_line(record.getMessage())}"
        pairs = [f"{name}={_word(value)}" for name, value in _fields(record).items()]
        traceback = [_INDENT + _one_line(line) for line in _traceback(self, record).splitlines()]
        return "\n".join([" ".join([head, *pairs]), *traceback])


class JsonLines(logging.Formatter):
    """An object a line: at (UTC), level, logger, message, the record's fields, traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceback := _traceback(self, record):
            line["traceback"] = traceback
        # the line's own stand first, and no field takes their place
        return _json({**line, **_fields(record), **line})


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""


def _one_line(text: str) -> str:
    """`text` with everything that a terminal or a reader of lines could take for more than a character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _word(value: Any) -> str:
    """As it is if it is a plain word or number, else as JSON."""
    if isinstance(value, str) and value and _PLAIN.issuperset(value):
        return value
    return _json(value)


def _json(value: Any) -> str:
    """ASCII on one line. What is no value of JSON, a NaN among them, is told as a string."""
    try:
        return json.dumps(value, default=str, allow_nan=False, separators=(",", ":"))
    except ValueError:
        valid = json.loads(json.dumps(value, default=str), parse_constant=str)
        return json.dumps(valid, separators=(",", ":"))


class _Handler(QueueHandler):
    def __init__(self, logs: Logs) -> None:
        super().__init__(logs.lines)
        self.logs = logs

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # arguments may change after the call, so the message is made here; the rest is left to the thread
        told = copy.copy(record)
        told.msg, told.args = record.getMessage(), None
        return told

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.logs.lines.put_nowait(record)
        except queue.Full:
            self.logs.n_dropped += 1


def _write(logs: Logs, writer: logging.Handler) -> None:
    n_told = 0
    while (record := logs.lines.get()) is not None:
        writer.handle(record)
        if (n_dropped := logs.n_dropped) > n_told:
            text = f"{n_dropped - n_told} lines of the log were dropped: nobody reads them fast enough"
            writer.handle(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))
            n_told = n_dropped
