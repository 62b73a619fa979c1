"""What happened, as JSON lines in a file, for whoever draws it later. Prompts are left out.

Written by a thread: the event loop only puts a line in a bounded queue. Events, each with "event":

- "stage": worker, job, request, model, stage, kind, started_at_s, ended_at_s, overhead_s, steps, from_step,
  batch (warm-ups: job is null; a loop that went on from a checkpoint ran `steps` steps behind its
  `from_step`; `batch` jobs shared its calls on average)
- "left": worker, job, request, model, stage, kind, started_at_s, ended_at_s, steps, from_step (a loop that
  was paused behind so many steps)
- "effect": effect ("run", "join", "load", "evict"), worker, model, stages, jobs (of a run), degree, reason,
  detail, at_s
- "pause", "reject", "degrade": worker (of a pause), model, job, reason, detail, at_s
- "request": request, model, outcome, status, code, n, size, steps, times_s, deadline_s (from arrival),
  deadline_met, exactness, at_s
- "worker": worker, state, reason (why a dead one is that), at_s
- "kill": worker, reason, at_s (it is silent, stuck or wrong)
- "load": worker, model, stages, load_s, origins (part -> "held", "host" or "disk"), notes, resident_bytes,
  host_bytes, at_s
- "model": model, status ("gone" once it is unloaded), reason, at_s

Times are seconds of the node's monotonic clock, `times_s` are durations.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from gateway.errors import ConfigRefused

log = logging.getLogger(__name__)

_MAX_LINES = 100_000


class Journal:
    """Open from `with` to its end, which writes what is queued. Without a file it records nothing."""

    def __init__(self, file: Path | None) -> None:
        self._path = file
        self._file: FileIO | None = None
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(_MAX_LINES)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._n_dropped = 0  # by whoever records
        self._n_lost = 0  # by the thread

    def __enter__(self) -> Journal:
        """Raises `ConfigRefused` if the file cannot be written."""
        if self._path is not None:
            try:
                self._file = open(self._path, "ab", buffering=0)
            except OSError as error:
                raise ConfigRefused("journal", f"{self._path} cannot be written: {error.strerror}") from error
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._lines.put(None)
            self._thread.join()
            self._file.close()
            self._file = None

    def record(self, event: str, **fields: Any) -> None:
        """Queue one line. Never blocks: over the bound the line is dropped and counted."""
        if self._file is None:
            return
        try:
            self._lines.put_nowait({"event": event, **fields})
        except queue.Full:
            self._n_dropped += 1

    def statistics(self) -> dict[str, int]:
        """Lines that wait to be written, and lines that were dropped."""
        return {"waiting": self._lines.qsize(), "dropped": self._n_dropped + self._n_lost}

    def _write(self) -> None:
        assert self._file is not None
        failing = False
        while (line := self._lines.get()) is not None:
            try:
                self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                failing = False
            except OSError as error:
                if not failing:
                    log.error("journal: lines are lost: %s", error.strerror)
                failing = True
                self._n_lost += 1
