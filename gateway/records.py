"""A recording of the planner: all that it was told, and all that it said. Values and bytes only, no I/O.

A file is a row of records, each behind its length in four bytes, big-endian: first what the planner began
with, then in their order what changed its configuration, what was measured for it, and every decision.
A record that was cut off ends the recording; what is before it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from planner.measurements import Measurements
from planner.types import Degrade, Effect, Evict, Load, Observation, Pause, PlannerConfig, Reject, Run, WakeAt

FORMAT = 1
"""Of a recording. One of another format cannot be read, since what the planner is told has changed."""

_LENGTH_BYTES = 4
_EFFECTS: dict[str, type[Effect]] = {
    kind.__name__: kind for kind in (Run, Load, Evict, Pause, Reject, Degrade, WakeAt)
}


class RecordingUnreadable(Exception):
    """It is no recording, or one of another format."""


class Began(msgspec.Struct, frozen=True, kw_only=True, tag="began"):
    """The first record: the planner has seen nothing."""

    config: PlannerConfig
    format: int = FORMAT


class Configured(msgspec.Struct, frozen=True, kw_only=True, tag="configured"):
    """The planner's configuration from now on."""

    config: PlannerConfig


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """What a model costs was measured, or read."""

    measurements: Measurements


class Decided(msgspec.Struct, frozen=True, kw_only=True, tag="decided"):
    """One decision. `effects`: the name of each one's class, and its fields."""

    observation: Observation
    effects: tuple[tuple[str, dict[str, Any]], ...]

    def said(self) -> tuple[Effect, ...]:
        """The effects. Raises `RecordingUnreadable`."""
        try:
            return tuple(msgspec.convert(fields, _EFFECTS[name]) for name, fields in self.effects)
        except (KeyError, msgspec.ValidationError) as error:
            raise RecordingUnreadable(f"there is no such effect: {error}") from error


Record = Began | Configured | Measured | Decided

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def decided(observation: Observation, effects: Iterable[Effect]) -> Decided:
    told = tuple((type(effect).__name__, msgspec.to_builtins(effect)) for effect in effects)
    return Decided(observation=observation, effects=told)


def to_bytes(record: Record) -> bytes:
    """With its length before it."""
    data = _encoder.encode(record)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def from_bytes(data: bytes) -> Iterator[Record]:
    """The records of a whole file, as far as they are whole. Raises `RecordingUnreadable`."""
    place, n_read = 0, 0
    while place + _LENGTH_BYTES <= len(data):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(data[place:start], "big")
        if place > len(data) and n_read:
            return
        try:
            record = _decoder.decode(data[start:place])
        except msgspec.DecodeError as error:
            raise RecordingUnreadable(f"record {n_read + 1}: {error}") from error
        if n_read == 0 and not (isinstance(record, Began) and record.format == FORMAT):
            raise RecordingUnreadable(f"it does not begin like one of format {FORMAT}")
        n_read += 1
        yield record
    if n_read == 0:
        raise RecordingUnreadable("it is empty")
