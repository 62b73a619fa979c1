from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from gateway import errors
from gateway.errors import (
    ApiError,
    BadHttp,
    ClientError,
    ConfigRefused,
    DeadlineInfeasible,
    Forbidden,
    GatewayError,
    InvalidRequest,
    KeyBusy,
    OperatorError,
    OurError,
    PeerError,
    QueueFull,
)


def subclasses(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for child in root.__subclasses__():
        yield child
        yield from subclasses(child)


CLASSES: list[type[GatewayError]] = [c for c in subclasses(GatewayError) if c.__module__ == "gateway.errors"]
LEAVES = [c for c in CLASSES if issubclass(c, ApiError) and not c.__subclasses__()]


def made(kind: type[ApiError]) -> ApiError:
    if kind in (QueueFull, DeadlineInfeasible):
        return kind("full", retry_after_s=7.4)
    if kind is Forbidden:
        return Forbidden("not you", code="insufficient_scope")
    return kind("what went wrong")


def test_the_drawing_names_every_class() -> None:
    drawn = inspect.getdoc(errors) or ""
    assert [c for c in CLASSES if c.__name__ not in drawn] == []


@pytest.mark.parametrize("kind", LEAVES, ids=str)
def test_each_error_renders_in_the_shape_of_openai(kind: type[ApiError]) -> None:
    error = made(kind)
    body = error.body()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert all(body[name] for name in ("message", "type", "code"))
    assert ("Retry-After" in error.headers()) == error.may_retry
    if error.may_retry:
        assert int(error.headers()["Retry-After"]) >= 1


@pytest.mark.parametrize("kind", LEAVES, ids=str)
def test_each_error_has_one_fault_and_a_fitting_status(kind: type[ApiError]) -> None:
    faults = [fault for fault in (ClientError, OurError, PeerError) if issubclass(kind, fault)]
    assert len(faults) == 1
    status = made(kind).http_status
    assert (400 <= status < 500) == (
        faults[0] is ClientError or kind in (QueueFull, KeyBusy, DeadlineInfeasible)
    )


def test_codes_are_distinct() -> None:
    codes = [made(kind).code for kind in LEAVES]
    assert len(set(codes)) == len(codes)


def test_an_error_keeps_what_it_was_given() -> None:
    error = InvalidRequest("n is 0", param="n", code="invalid_value")
    assert error.body() == {
        "error": {
            "message": "n is 0",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        }
    }
    assert BadHttp("teapot", http_status=418).http_status == 418


def test_the_operators_errors_carry_exit_codes() -> None:
    assert ConfigRefused("port", "is 70000").exit_code == 2
    assert str(ConfigRefused("port", "is 70000")) == "port: is 70000"
    codes = {c.exit_code for c in subclasses(OperatorError) if issubclass(c, OperatorError)}
    assert codes == {1, 2}
