"""Messages to bytes and back: msgpack on the wire, msgspec for the schema.

msgpack decodes, `msgspec.convert` validates against the union of the link, so a message of the wrong link,
with a missing field or of a wrong type is refused at the edge and never half-read.
"""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec

from wire.errors import MessageRefused
from wire.to_gateway import ToGateway
from wire.to_worker import ToWorker

PROTOCOL_VERSION = 5
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


def encode(message: ToWorker | ToGateway) -> bytes:
    """One message as msgpack bytes."""
    packed: bytes = msgpack.packb(msgspec.to_builtins(message))
    return packed


def decode_to_worker(data: bytes) -> ToWorker:
    """Raises `MessageRefused` if `data` is no message of that link."""
    message: ToWorker = _decode(data, ToWorker)
    return message


def decode_to_gateway(data: bytes) -> ToGateway:
    """Raises `MessageRefused` if `data` is no message of that link."""
    message: ToGateway = _decode(data, ToGateway)
    return message


def _decode(data: bytes, union: Any) -> Any:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageRefused(f"message of {len(data)} bytes is over the bound of {MAX_MESSAGE_BYTES}")
    try:
        return msgspec.convert(msgpack.unpackb(data), type=union)
    except (msgspec.ValidationError, ValueError, msgpack.UnpackException) as error:
        raise MessageRefused(f"not a message of this link: {error}") from error
