"""Writes what the planner was told and what it said to a file, to be replayed; see `gateway.records`.

Encoded and written by a thread: the event loop only puts a value in a bounded queue. A recording has no gaps,
since what comes behind one could not be replayed. So it ends at the first record that finds no room, in the
queue, on the disk or within its bound, and the log says so; the gateway goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
from io import FileIO
from pathlib import Path
from types import TracebackType

from gateway.errors import ConfigRefused
from gateway.records import Began, Configured, Measured, Record, decided, to_bytes
from planner.measurements import Measurements
from planner.types import Effect, Observation, PlannerConfig

log = logging.getLogger(__name__)

_MAX_WAITING = 2000


class Recording:
    """Open from `with` to its end, which writes what is queued. Without a file it records nothing.

    What it is given must not change afterwards.
    """

    def __init__(self, file: Path | None, *, max_bytes: int = 1024**3) -> None:
        self._path = file
        self._max_bytes = max_bytes
        self._file: FileIO | None = None
        self._records: queue.Queue[Record | tuple[Observation, tuple[Effect, ...]] | None]
        self._records = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)
        self._ended: str | None = None

    def __enter__(self) -> Recording:
        """Begins the file anew. Raises `ConfigRefused` if it cannot be written."""
        if self._path is not None:
            try:
                self._file = open(self._path, "wb", buffering=0)
            except OSError as error:
                raise ConfigRefused("record", f"{self._path} cannot be written: {error.strerror}") from error
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._records.put(None)
            self._thread.join()
            self._file.close()
            self._file = None

    @property
    def ended(self) -> str | None:
        """Why it goes on no more, None while it does."""
        return self._ended

    def began(self, config: PlannerConfig) -> None:
        self._put(Began(config=config))

    def configured(self, config: PlannerConfig) -> None:
        self._put(Configured(config=config))

    def measured(self, measurements: Measurements) -> None:
        self._put(Measured(measurements=measurements))

    def decided(self, observation: Observation, effects: tuple[Effect, ...]) -> None:
        self._put((observation, effects))

    def _put(self, record: Record | tuple[Observation, tuple[Effect, ...]]) -> None:
        """Never blocks."""
        if self._file is None or self._ended is not None:
            return
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._end(f"{_MAX_WAITING} records wait to be written")

    def _end(self, reason: str) -> None:
        self._ended = reason
        log.warning("%s ends here, and can be replayed to here: %s", self._path, reason)

    def _write(self) -> None:
        assert self._file is not None
        n_left = self._max_bytes
        while (told := self._records.get()) is not None:
            if n_left < 0:
                continue
            data = to_bytes(decided(*told) if isinstance(told, tuple) else told)
            n_left -= len(data)
            if n_left < 0:
                self._end(f"it is bounded to {self._max_bytes} bytes")
                continue
            try:
                self._file.write(data)
            except OSError as error:
                n_left = -1
                self._end(error.strerror or str(error))
