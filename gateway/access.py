"""Who may call what: by API key where there are keys, else by where a call comes from.

Without keys a server on loopback is open to all that runs on its machine, browsers among it, which run what
other sites send them. So a page of another site may change nothing (`Origin`), and a name that another site
has pointed at this machine is not ours (`Host`; DNS rebinding). With keys neither is looked at: a browser
adds no key of its own accord.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections import Counter
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from aiohttp import web

from gateway.api_keys import ApiKey, KeyRing
from gateway.errors import Forbidden, KeyBusy, Unauthenticated

Scope = Literal["public", "client", "metrics", "admin"]
"""Who may call a route: anyone; any key; an admin key, or anyone where there are no keys; an admin key, or
the node itself where there are no keys."""

_READING = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


class Guard:
    """Lets calls in. `keys` None: no key is needed and any is taken.

    `host`: the name that a server on loopback was told to listen on, None for a server on another address,
    which cannot know its names.
    """

    def __init__(self, keys: KeyRing | None = None, *, host: str | None = "localhost") -> None:
        self._keys = keys
        self._host = host
        self._in_flight: Counter[str] = Counter()

    @property
    def asks_for_keys(self) -> bool:
        return self._keys is not None

    @contextlib.contextmanager
    def admitted(self, request: web.Request, scope: Scope) -> Iterator[str | None]:
        """The name of the caller's key for as long as the call goes on, None without one.

        Raises `Unauthenticated`, `Forbidden` and `KeyBusy`.
        """
        if self._keys is None:
            self._check_origin(request, scope)
            yield None
        elif scope == "public":
            yield None
        else:
            key = _checked(self._keys, request, scope)
            # what only looks takes no place, so that a busy key can still be looked after
            if request.method in _READING:
                yield key.name
            else:
                with self._counted(key):
                    yield key.name

    @contextlib.contextmanager
    def _counted(self, key: ApiKey) -> Iterator[None]:
        bound = key.max_in_flight
        if bound is not None and self._in_flight[key.name] >= bound:
            raise KeyBusy(f"the key {key.name} has {bound} requests open, as many as it may")
        self._in_flight[key.name] += 1
        try:
            yield
        finally:
            self._in_flight[key.name] -= 1
            if not self._in_flight[key.name]:
                del self._in_flight[key.name]

    def _check_origin(self, request: web.Request, scope: Scope) -> None:
        host = request.headers.get("Host")
        if self._host is not None and host is not None and not self._is_ours(host):
            raise Forbidden(f"this server is not {host}", code="wrong_host")
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in _READING:
            ours = [f"{scheme}://{host}".lower() for scheme in ("http", "https")]
            if host is None or origin.lower() not in ours:
                raise Forbidden("a page of another site may change nothing here", code="cross_origin")
        if scope == "admin" and not _is_from_here(request):
            raise Forbidden("without API keys only the node itself may do this", code="not_from_here")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return (
            name in ("localhost", (self._host or "").lower())
            or name.endswith(".localhost")
            or is_loopback(name)
        )


def is_loopback(address: str) -> bool:
    """Whether an address, not a name, is this machine's own."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _checked(keys: KeyRing, request: web.Request, scope: Scope) -> ApiKey:
    kind, _, presented = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not presented.strip():
        raise Unauthenticated("there is no API key: send it as Authorization: Bearer KEY")
    key = keys.holder(presented.strip())
    if key is None:
        raise Unauthenticated("the API key is not known here, or is no longer")
    if scope != "client" and key.scope != "admin":
        raise Forbidden(f"the key {key.name} is no admin key", code="insufficient_scope")
    return key


def _is_from_here(request: web.Request) -> bool:
    """From this machine, and not through a proxy on it."""
    return is_loopback(request.remote or "") and not any(name in request.headers for name in _FORWARDED)
