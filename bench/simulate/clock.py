"""Virtual time: what is to happen when. Nothing here knows what happens."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

_EPSILON_S = 1e-9

Event = tuple[float, int, Callable[[Any, int], None], Any, int]
"""When, the order among equals, what to call with what, and the version by which it may have become stale."""


class Clock:
    """`changed`: something happened that a decision could act on."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s
        self.changed = True
        self._events: list[Event] = []
        self._n_events = 0
        self._wake_s = math.inf
        self._n_wakes = 0

    @property
    def next_s(self) -> float:
        """When something happens next; infinity if nothing ever will."""
        return self._events[0][0] if self._events else math.inf

    def at(self, at_s: float, happen: Callable[[Any, int], None], what: Any, version: int = 0) -> None:
        """Call `happen(what, version)` at `at_s`, behind what is to happen then already."""
        heapq.heappush(self._events, (at_s, self._n_events, happen, what, version))
        self._n_events += 1

    def wake_at(self, at_s: float) -> None:
        """Be `changed` at `at_s`. One that is earlier stands: who still waits then says so again."""
        if not self.now_s < self._wake_s <= at_s:
            self._wake_s = at_s
            self._n_wakes += 1
            self.at(at_s, self._wake, None, self._n_wakes)

    def advance(self) -> None:
        """Let everything happen that is due next, and what that makes due at once."""
        events = self._events
        self.now_s = events[0][0]
        while events and events[0][0] <= self.now_s + _EPSILON_S:
            _, _, happen, what, version = heapq.heappop(events)
            happen(what, version)

    def _wake(self, _: None, version: int) -> None:
        if version == self._n_wakes:
            self.changed = True
