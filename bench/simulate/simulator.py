"""Drives a policy by a virtual clock: something happens, the policy decides, the fleet carries it out."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.simulate.fleet import Fleet
from planner.types import Effect, Evict, Load, Observation

Decide = Callable[[Any, Observation], tuple[Any, tuple[Effect, ...]]]
"""A policy: `decide(state, observation) -> (state, effects)`, the state being its own matter."""


@dataclass(slots=True)
class Decisions:
    """What deciding took. `seconds` are of the thread's CPU time, garbage collection included.

    `n_replacements`: how often there was a new reason to load or evict.
    """

    seconds: list[float] = field(default_factory=list)
    n_replacements: int = 0
    _told: tuple[str, str] | None = None

    def note(self, effect: Load | Evict) -> None:
        """All effects of one decision about places tell the same reason and detail."""
        told = (effect.reason.value, effect.detail)
        if told != self._told:
            self._told = told
            self.n_replacements += 1


def simulate(
    fleet: Fleet,
    decide: Decide,
    state: Any,
    *,
    drain_s: float = 1800.0,
    on_effect: Callable[[float, Effect], None] | None = None,
) -> Decisions:
    """Until every job has ended, nothing would ever happen again, or `drain_s` after the last arrival.

    The policy is asked once for each moment at which something happened that it could act on. That a stage
    of a task ended and its worker went on with the next one is nothing of the kind.
    Raises `EffectRefused` if it asks for what cannot be done.
    """
    decisions = Decisions()
    # what exists by now is ours, and not for the collector to go through in the policy's time
    gc.freeze()
    try:
        _run(fleet, decide, state, fleet.book.last_arrival_s + drain_s, on_effect, decisions)
    finally:
        gc.unfreeze()
    return decisions


def _run(
    fleet: Fleet,
    decide: Decide,
    state: Any,
    until_s: float,
    on_effect: Callable[[float, Effect], None] | None,
    decisions: Decisions,
) -> None:
    clock, book = fleet.clock, fleet.book
    while not book.is_done:
        if clock.changed and clock.next_s > clock.now_s:
            observation = fleet.observation()
            began_ns = time.thread_time_ns()
            state, effects = decide(state, observation)
            decisions.seconds.append((time.thread_time_ns() - began_ns) / 1e9)
            for effect in effects:
                if on_effect is not None:
                    on_effect(clock.now_s, effect)
                if isinstance(effect, Load | Evict):
                    decisions.note(effect)
                fleet.carry_out(effect)
            clock.changed = False
        if clock.next_s == math.inf or clock.next_s > until_s:
            break
        clock.advance()
