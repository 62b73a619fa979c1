"""The life of one job as a table: no I/O, no clock, no knowledge of workers.

          encode          diffuse            decode
QUEUED -> ENCODING -> READY -> DIFFUSING <-> PAUSED
   `-------------------^          `-> DECODE_READY -> DECODING -> FINISHING -> DONE

A job whose encode result is known already goes from QUEUED to READY at once. One that loses its worker or its
handoff goes back to the last point whose handoff exists: QUEUED, READY (with a checkpoint of the loop, if
there is one) or DECODE_READY. ENCODING covers every stage before the denoise, so QUEUED may hold the output
of an earlier encode stage. From any open state FAILED or CANCELLED; from QUEUED also REJECTED, and from READY
for one that came there with a known result, while nothing of it was begun.
"""

from __future__ import annotations

import enum
from types import MappingProxyType


class State(enum.StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    ENCODING = "encoding"
    READY = "ready"
    DIFFUSING = "diffusing"
    PAUSED = "paused"
    DECODE_READY = "decode_ready"
    DECODING = "decoding"
    FINISHING = "finishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def is_terminal(self) -> bool:
        return not NEXT[self]


class Event(enum.StrEnum):
    """What can happen to a job. `BACK_TO_*`: work was lost, the named point's handoff still exists."""

    ENCODE_STARTED = "encode_started"
    ENCODE_DONE = "encode_done"
    ENCODE_SKIPPED = "encode_skipped"
    DIFFUSE_STARTED = "diffuse_started"
    PAUSED = "paused"
    DIFFUSE_DONE = "diffuse_done"
    DECODE_STARTED = "decode_started"
    DECODE_DONE = "decode_done"
    DELIVERED = "delivered"
    BACK_TO_QUEUED = "back_to_queued"
    BACK_TO_READY = "back_to_ready"
    BACK_TO_DECODE_READY = "back_to_decode_ready"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class IllegalTransition(Exception):
    """An event that cannot happen in this state: a bug of ours, or a late message that was not dropped."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event} cannot happen to a job that is {state}")
        self.state = state
        self.event = event


_ENDS = {Event.FAILED: State.FAILED, Event.CANCELLED: State.CANCELLED}
_BACK_TO_QUEUED = {Event.BACK_TO_QUEUED: State.QUEUED, **_ENDS}
_BACK_TO_READY = {Event.BACK_TO_READY: State.READY, **_BACK_TO_QUEUED}
_BACK_TO_DECODE_READY = {Event.BACK_TO_DECODE_READY: State.DECODE_READY, **_BACK_TO_READY}

NEXT: MappingProxyType[State, dict[Event, State]] = MappingProxyType(
    {
        # a task may be lost before its stage began: going back to where one stands is legal
        State.QUEUED: {
            Event.ENCODE_STARTED: State.ENCODING,
            Event.ENCODE_SKIPPED: State.READY,
            Event.REJECTED: State.REJECTED,
            **_BACK_TO_QUEUED,
        },
        State.ENCODING: {
            Event.ENCODE_STARTED: State.ENCODING,
            Event.ENCODE_DONE: State.READY,
            **_BACK_TO_QUEUED,
        },
        State.READY: {
            Event.DIFFUSE_STARTED: State.DIFFUSING,
            Event.REJECTED: State.REJECTED,
            **_BACK_TO_READY,
        },
        State.DIFFUSING: {
            Event.PAUSED: State.PAUSED,
            Event.DIFFUSE_DONE: State.DECODE_READY,
            **_BACK_TO_READY,
        },
        State.PAUSED: {Event.DIFFUSE_STARTED: State.DIFFUSING, **_BACK_TO_READY},
        State.DECODE_READY: {Event.DECODE_STARTED: State.DECODING, **_BACK_TO_DECODE_READY},
        State.DECODING: {
            Event.DECODE_STARTED: State.DECODING,
            Event.DECODE_DONE: State.FINISHING,
            **_BACK_TO_DECODE_READY,
        },
        State.FINISHING: {Event.DELIVERED: State.DONE, **_BACK_TO_DECODE_READY},
        State.DONE: {},
        State.FAILED: {},
        State.CANCELLED: {},
        State.REJECTED: {},
    }
)

STARTED: dict[str, Event] = {
    "encode": Event.ENCODE_STARTED,
    "diffuse": Event.DIFFUSE_STARTED,
    "decode": Event.DECODE_STARTED,
}
ENDED: dict[str, Event] = {
    "encode": Event.ENCODE_DONE,
    "diffuse": Event.DIFFUSE_DONE,
    "decode": Event.DECODE_DONE,
}
BACK_TO: dict[str, Event] = {
    "encode": Event.BACK_TO_QUEUED,
    "diffuse": Event.BACK_TO_READY,
    "decode": Event.BACK_TO_DECODE_READY,
}


def advance(state: State, event: Event) -> State:
    """The state after `event`. Raises `IllegalTransition`."""
    try:
        return NEXT[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
