"""One timer that makes a turn at the earliest moment that somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """`ring` is called on the event loop. Times are those of `clock`."""

    def __init__(self, ring: Callable[[], None], clock: Callable[[], float]) -> None:
        self._ring = ring
        self._now_s = clock
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0

    def at(self, at_s: float) -> None:
        """Ring at `at_s`. Who still waits then says so again in that turn: one timer will do."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, at_s - self._now_s())
        if self._timer is not None:
            if not self._timer.cancelled() and loop.time() < self._due_s <= when:
                return
            self._timer.cancel()
        # uvloop's handle of a call that is due within a millisecond does not tell when that is
        self._timer, self._due_s = loop.call_at(when, self._ring), when

    def cancel(self) -> None:
        """It rings no more."""
        if self._timer is not None:
            self._timer.cancel()
