"""Every message of each link survives its way over the wire; everything else is refused."""

from __future__ import annotations

import enum
import types
import typing
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.codec import MAX_MESSAGE_BYTES, decode_to_gateway, decode_to_worker, encode
from wire.errors import MessageRefused
from wire.to_gateway import ToGateway
from wire.to_worker import CancelTask, ToWorker

LINKS = {"to_worker": (ToWorker, decode_to_worker), "to_gateway": (ToGateway, decode_to_gateway)}
MEMBERS = [(link, member) for link, (union, _) in LINKS.items() for member in typing.get_args(union)]


def _sample(kind: Any) -> Any:
    """A value of `kind` that is not its default where that can be helped."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _sample(hints[name]) for name in kind.__struct_fields__})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return list(kind)[-1]
    if origin is typing.Literal:
        return arguments[-1]
    if origin is tuple and arguments[-1] is not ...:
        return tuple(map(_sample, arguments))
    if origin is tuple:
        return (_sample(arguments[0]),) * 2
    if origin is dict:
        return {"key": _sample(arguments[1])}
    if origin in (typing.Union, types.UnionType):
        return _sample(next(argument for argument in arguments if argument is not type(None)))
    if kind is Any:
        return "value"
    return {str: "text", int: 7, float: 1.5, bool: True}[kind]


@pytest.mark.parametrize(("link", "member"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_member_round_trips(link: str, member: Any) -> None:
    _, decode = LINKS[link]
    message = _sample(member)
    assert decode(encode(message)) == message


@pytest.mark.parametrize(("link", "member"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_message_of_the_other_link_is_refused(link: str, member: Any) -> None:
    other = "to_gateway" if link == "to_worker" else "to_worker"
    with pytest.raises(MessageRefused):
        LINKS[other][1](encode(_sample(member)))


@pytest.mark.parametrize(("link", "member"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_missing_required_field_is_refused(link: str, member: Any) -> None:
    _, decode = LINKS[link]
    required = [field.name for field in msgspec.structs.fields(member) if field.required]
    plain = msgspec.to_builtins(_sample(member))
    for name in required:
        cut = {key: value for key, value in plain.items() if key != name}
        with pytest.raises(MessageRefused, match=name):
            decode(msgpack.packb(cut))


def test_tags_are_unique_over_both_links() -> None:
    names = [member.__name__ for _, member in MEMBERS]
    assert len(names) == len(set(names))


def test_wrong_types_and_oversize_are_refused() -> None:
    with pytest.raises(MessageRefused, match="task_id"):
        decode_to_worker(msgpack.packb({"type": "CancelTask", "task_id": 3}))
    with pytest.raises(MessageRefused, match="bound"):
        decode_to_worker(encode(CancelTask(task_id="x" * MAX_MESSAGE_BYTES)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for decode in (decode_to_worker, decode_to_gateway):
        try:
            decode(data)
        except MessageRefused:
            continue
