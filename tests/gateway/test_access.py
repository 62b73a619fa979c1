from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.access import Guard, Scope, is_loopback
from gateway.api_keys import ApiKey, KeyRing, digest_of, store_keys
from gateway.app import ROUTES
from gateway.errors import ApiError, Forbidden, KeyBusy, Unauthenticated
from tests.gateway.conftest import Bench, Start, until

KEYS = (
    ApiKey(name="alice", sha256=digest_of("client-key")),
    ApiKey(name="root", sha256=digest_of("admin-key"), scope="admin"),
    ApiKey(name="bounded", sha256=digest_of("bounded-key"), max_in_flight=1),
)
ALICE = {"Authorization": "Bearer client-key"}
ROOT = {"Authorization": "Bearer admin-key"}
BOUNDED = {"Authorization": "Bearer bounded-key"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    store_keys(file, KEYS)
    return file


def call(
    method: str = "POST", *, peer: str = "127.0.0.1", headers: dict[str, str] | None = None
) -> web.Request:
    transport = Mock()
    transport.get_extra_info.side_effect = lambda name, default=None: (
        (peer, 5) if name == "peername" else default
    )
    return make_mocked_request(
        method, "/v1/x", headers={"Host": "localhost:8000", **(headers or {})}, transport=transport
    )


def answer(guard: Guard, request: web.Request, scope: Scope) -> str | None:
    """The name of the key, or the code of the refusal with an exclamation mark."""
    try:
        with guard.admitted(request, scope) as name:
            return name
    except ApiError as error:
        return f"!{error.code}"


@pytest.mark.parametrize(
    ("scope", "without", "wrong", "client", "admin"),
    [
        ("public", None, None, None, None),
        ("client", "!invalid_api_key", "!invalid_api_key", "alice", "root"),
        ("metrics", "!invalid_api_key", "!invalid_api_key", "!insufficient_scope", "root"),
        ("admin", "!invalid_api_key", "!invalid_api_key", "!insufficient_scope", "root"),
    ],
)
def test_what_a_key_opens(
    keys: Path, scope: Scope, without: str, wrong: str, client: str, admin: str
) -> None:
    guard = Guard(KeyRing(keys))
    for headers, expected in (({}, without), (ALICE, client), (ROOT, admin)):
        assert answer(guard, call(headers=headers), scope) == expected
    for text in ("Bearer other", "Bearer ", "Basic client-key", "client-key", "Bearer client-key x"):
        assert answer(guard, call(headers={"Authorization": text}), scope) == wrong
    assert answer(guard, call(headers={"Authorization": "bearer  client-key "}), scope) == client
    # with keys it does not matter where a call comes from
    far = {"Host": "elsewhere", "Origin": "https://other.example", **ROOT}
    assert answer(guard, call(peer="10.0.0.7", headers=far), scope) == admin


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.7"])
def test_without_keys_any_is_taken_and_admin_calls_come_from_here(peer: str) -> None:
    guard = Guard(host=None)
    for headers in ({}, {"Authorization": "Bearer EMPTY"}, {"Authorization": "nonsense"}):
        for scope in ("public", "client", "metrics"):
            assert answer(guard, call(peer=peer, headers=headers), scope) is None
        expected = None if peer != "10.0.0.7" else "!not_from_here"
        assert answer(guard, call(peer=peer, headers=headers), "admin") == expected


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_through_a_proxy_is_not_from_here(header: str) -> None:
    request = call(headers={header: "for=10.0.0.7"})
    assert answer(Guard(), request, "admin") == "!not_from_here"
    assert answer(Guard(), request, "client") is None


@pytest.mark.parametrize(
    ("origin", "method", "admitted"),
    [
        ("http://localhost:8000", "POST", True),
        ("http://LOCALHOST:8000", "POST", True),
        ("http://localhost:3000", "POST", False),
        ("https://other.example", "POST", False),
        ("https://other.example", "DELETE", False),
        ("https://other.example", "GET", True),
        ("null", "POST", False),
        ("", "POST", False),
        ("http://[", "POST", False),
    ],
)
def test_a_page_of_another_site_changes_nothing(origin: str, method: str, admitted: bool) -> None:
    for guard in (Guard(), Guard(host=None)):
        said = answer(guard, call(method, headers={"Origin": origin}), "client")
        assert said == (None if admitted else "!cross_origin")


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:8000", True),
        ("127.1.2.3", True),
        ("[::1]:8000", True),
        ("my.localhost:1", True),
        ("box.example", True),
        ("other.example:8000", False),
        ("localhost.other.example", False),
        ("127.0.0.1.other.example", False),
        ("10.0.0.7", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_name_that_is_not_ours_is_refused_on_loopback(host: str, admitted: bool) -> None:
    for scope in ("public", "client"):
        said = answer(Guard(host="Box.example"), call("GET", headers={"Host": host}), scope)
        assert said == (None if admitted else "!wrong_host")
        assert answer(Guard(host=None), call("GET", headers={"Host": host}), scope) is None


def test_a_client_that_names_no_host_is_no_browser() -> None:
    request = make_mocked_request("POST", "/v1/x", headers={})
    assert answer(Guard(), request, "client") is None


def test_a_key_has_no_more_open_than_it_may(keys: Path) -> None:
    guard = Guard(KeyRing(keys))
    with contextlib.ExitStack() as stack:
        stack.enter_context(guard.admitted(call(headers=BOUNDED), "client"))
        with pytest.raises(KeyBusy, match="bounded has 1 requests open") as busy:
            stack.enter_context(guard.admitted(call(headers=BOUNDED), "client"))
        assert busy.value.headers()["Retry-After"] == "1"
        # to look takes no place, and others have their own
        stack.enter_context(guard.admitted(call("GET", headers=BOUNDED), "client"))
        for _ in range(3):
            stack.enter_context(guard.admitted(call(headers=ALICE), "client"))
    with (
        contextlib.suppress(ZeroDivisionError),
        guard.admitted(call(headers=BOUNDED), "client"),
    ):
        raise ZeroDivisionError
    assert answer(guard, call(headers=BOUNDED), "client") == "bounded"


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback(address: str, here: bool) -> None:
    assert is_loopback(address) == here


def test_only_what_says_nothing_is_public() -> None:
    public = {path for _, path, _, scope in ROUTES if scope == "public"}
    # names of files cannot be guessed, and a browser that shows one has no key
    assert public <= {"/health", "/ready", "/openapi.json", "/v1/files/{name}"}
    changing = {scope for method, path, _, scope in ROUTES if method != "GET" and "/models" in path}
    assert changing <= {"admin"}


async def statuses(bench: Bench, headers: dict[str, str]) -> dict[str, int]:
    found = {}
    for path in ("/health", "/v1/models", "/v1/models/toy", "/metrics", "/v1/nothing"):
        async with bench.client.get(path, headers=headers) as response:
            found[path] = response.status
        async with bench.client.head(path, headers=headers) as response:
            assert response.status == found[path]
    async with bench.client.post(
        "/v1/images/generations", json={"prompt": "a hat"}, headers=headers
    ) as response:
        found["post"] = response.status
    return found


async def test_keys_over_http(start: Start, keys: Path) -> None:
    bench = await start(api_keys=keys)
    closed = dict.fromkeys(("/v1/models", "/v1/models/toy", "/metrics", "/v1/nothing", "post"), 401)
    assert await statuses(bench, {}) == {"/health": 200, **closed}
    assert await statuses(bench, {"Authorization": "Bearer EMPTY"}) == {"/health": 200, **closed}
    opened = {"/health": 200, "/v1/models": 200, "/v1/models/toy": 200, "/v1/nothing": 404, "post": 200}
    assert await statuses(bench, ALICE) == {**opened, "/metrics": 403}
    assert await statuses(bench, ROOT) == {**opened, "/metrics": 200}
    async with bench.client.get("/v1/models") as response:
        assert response.headers["WWW-Authenticate"] == "Bearer"
        error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert response.headers["X-Request-Id"].startswith("req-")


async def test_every_route_asks_for_the_key_of_its_scope(start: Start, keys: Path) -> None:
    bench = await start(api_keys=keys)
    for method, path, _, scope in ROUTES:
        asked = re.sub(r"\{[^}]*\}", "toy" if method == "GET" else "none", path)
        found = []
        for headers in ({}, ALICE, ROOT):
            async with bench.client.request(method, asked, headers=headers) as response:
                found.append({401: "who", 403: "no"}.get(response.status, "yes"))
        expected = {"public": ["yes"] * 3, "client": ["who", "yes", "yes"]}
        assert found == expected.get(scope, ["who", "no", "yes"]), (method, path)


async def test_a_key_is_revoked_while_serving(start: Start, keys: Path) -> None:
    bench = await start(api_keys=keys)
    store_keys(keys, KEYS[1:])
    async with bench.client.get("/v1/models", headers=ALICE) as response:
        assert response.status == 401
    store_keys(keys, KEYS)
    async with bench.client.get("/v1/models", headers=ALICE) as response:
        assert response.status == 200


async def test_the_bound_of_a_key_over_http(start: Start, keys: Path) -> None:
    bench = await start(("denoise", "hold"), api_keys=keys)

    async def post() -> tuple[int, dict[str, Any]]:
        async with bench.client.post(
            "/v1/images/generations", json={"prompt": "a hat"}, headers=BOUNDED
        ) as response:
            return response.status, await response.json()

    running = asyncio.create_task(post())
    await until(lambda: bench.engine.book.open_requests, "the request")
    status, body = await post()
    assert (status, body["error"]["type"], body["error"]["code"]) == (429, "rate_limit_error", "key_busy")
    bench.engine.desk.end_all()
    assert (await running)[0] == 503
    assert (await post())[0] != 429


async def test_without_keys_any_is_taken_over_http(start: Start) -> None:
    bench = await start()
    opened = {"/health": 200, "/v1/models": 200, "/v1/models/toy": 200, "/metrics": 200, "post": 200}
    for headers in ({}, {"Authorization": "Bearer EMPTY"}):
        assert await statuses(bench, headers) == {**opened, "/v1/nothing": 404}
    async with bench.client.post(
        "/v1/images/generations", json={"prompt": "a hat"}, headers={"Origin": "https://other.example"}
    ) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (403, "cross_origin")
    async with bench.client.get("/v1/models", headers={"Host": "other.example"}) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (403, "wrong_host")


async def test_a_body_that_does_not_come_is_not_waited_for(start: Start) -> None:
    bench = await start(body_timeout_s=0.05)
    reader, writer = await asyncio.open_connection(bench.client.host, bench.client.port)
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f'{head}Content-Length: 100\r\n\r\n{{"prompt":'.encode())
    status = await asyncio.wait_for(reader.readline(), 10)
    assert status.split()[1] == b"408"
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_swells_is_bounded(start: Start) -> None:
    bench = await start(max_body_bytes=10_000)
    swelling = gzip.compress(json.dumps({"prompt": "x" * 5_000_000}).encode())
    assert len(swelling) < 10_000
    async with bench.client.post(
        "/v1/images/generations",
        data=swelling,
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ) as response:
        assert response.status == 413


def test_errors_have_the_statuses_that_clients_know() -> None:
    assert (Unauthenticated.status, Forbidden.status, KeyBusy.status) == (401, 403, 429)
