"""Replays a recording of the planner: the same core is told the same, and must say the same.

What it says does not change what it is told next, which is in the recording. So a difference is one of the
decision where it is, or of what the planner remembers from the ones before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gateway.records import Began, Configured, Decided, Measured, Record
from planner import PlannerState, decide, initial_state
from planner.types import Effect


@dataclass(frozen=True, slots=True)
class Difference:
    """The `number`-th decision, at `at_s` of the recording's clock: what was said, and what is said now."""

    number: int
    at_s: float
    recorded: tuple[Effect, ...]
    replayed: tuple[Effect, ...]


@dataclass(slots=True)
class Replay:
    """How many decisions and effects were replayed, and those decisions that were others.

    `state`: what the planner knew after the last one, None of an empty recording.
    """

    n_decisions: int = 0
    n_effects: int = 0
    differences: list[Difference] = field(default_factory=list)
    state: PlannerState | None = None


def replay(records: Iterable[Record]) -> Replay:
    """Raises `gateway.records.RecordingUnreadable`."""
    made = Replay()
    state: PlannerState | None = None
    for record in records:
        match record:
            case Began():
                state = initial_state(record.config)
            case Configured():
                assert state is not None
                state = replace(state, config=record.config)
            case Measured():
                assert state is not None
                state = replace(state, profile=state.profile.with_measured(record.measurements))
            case Decided():
                assert state is not None
                recorded = record.said()
                state, replayed = decide(state, record.observation)
                made.n_decisions += 1
                made.n_effects += len(recorded)
                if replayed != recorded:
                    now_s = record.observation.now_s
                    made.differences.append(Difference(made.n_decisions, now_s, recorded, replayed))
    made.state = state
    return made
