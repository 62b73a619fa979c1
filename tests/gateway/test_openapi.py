"""The published description: every route is in it, and it says what the types that validate say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.app import ROUTES
from gateway.bodies import REFUSED_FIELDS, REFUSED_VALUES, ErrorReply, ImagesRequest
from gateway.errors import ApiError, InvalidRequest
from gateway.openapi import document
from gateway.operations import OPERATIONS, canonical
from gateway.supervisor import CHECKOUT
from tests.gateway.conftest import Start

SCOPES = {(method, canonical(path)): scope for method, path, _, scope in ROUTES}


def operations_of(made: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in made["paths"].items()
        for method, operation in methods.items()
    }


def images_request() -> dict[str, Any]:
    schema: dict[str, Any] = document(SCOPES, with_keys=False)["components"]["schemas"]["ImagesRequest"]
    return schema


def test_every_route_is_an_operation_and_every_operation_a_route() -> None:
    named = [(operation.method, operation.path) for operation in OPERATIONS]
    assert sorted(named) == sorted(SCOPES)
    assert set(operations_of(document(SCOPES, with_keys=False))) == set(SCOPES)
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)


def test_every_reference_leads_somewhere() -> None:
    made = document(SCOPES, with_keys=True)

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if ref := value.get("$ref"):
                found = made
                for part in ref.removeprefix("#/").split("/"):
                    found = found[part]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(made)


def test_a_key_is_asked_for_where_there_are_keys_and_the_route_is_not_public() -> None:
    for operation in operations_of(document(SCOPES, with_keys=False)).values():
        assert "security" not in operation
    for key, operation in operations_of(document(SCOPES, with_keys=True)).items():
        assert ("security" in operation) == (SCOPES[key] != "public"), key
        assert ("401" in operation["responses"]) == ("security" in operation)


def test_bounds_are_published_as_they_are_checked() -> None:
    properties = images_request()["properties"]
    (n, _) = properties["n"]["anyOf"]
    assert (n["minimum"], n["maximum"]) == (1, 10)
    (seed, _) = properties["seed"]["anyOf"]
    msgspec.convert({"prompt": "x", "seed": seed["maximum"]}, ImagesRequest)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"prompt": "x", "seed": seed["maximum"] + 1}, ImagesRequest)
    assert images_request()["additionalProperties"] is False


def test_what_is_refused_is_not_published_as_possible() -> None:
    properties = images_request()["properties"]
    for field, reason in REFUSED_FIELDS.items():
        assert properties[field] == {"type": "null", "default": None, "description": reason}
    for field, value in REFUSED_VALUES:
        for kind in properties[field]["anyOf"]:
            assert value not in kind.get("enum", ()), (field, value)


def test_every_error_has_the_published_shape() -> None:
    error: ApiError = InvalidRequest("n is 0", param="n")
    assert msgspec.to_builtins(msgspec.convert(error.body(), ErrorReply)) == error.body()


def test_every_field_is_documented() -> None:
    text = (CHECKOUT / "docs" / "http.md").read_text()
    assert [name for name in ImagesRequest.__struct_fields__ if f"`{name}`" not in text] == []


async def test_it_is_served(start: Start) -> None:
    bench = await start(wait_ready=False)
    response = await bench.client.get("/openapi.json")
    assert (response.status, response.content_type) == (200, "application/json")
    assert await response.json() == document(SCOPES, with_keys=False)
