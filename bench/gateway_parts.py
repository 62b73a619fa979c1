"""Whose time a profile of the gateway shows: each function's own time, by the part that its file is of.

Time in C is given to the Python code that called it. What the event loop itself does (sockets, callbacks) has
no Python caller and is a part of its own.
"""

from __future__ import annotations

import pstats
from collections import Counter
from pathlib import Path
from typing import Any

Function = tuple[str, int, str]

PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("HTTP", ("/aiohttp/", "/yarl/", "/multidict/", "gateway/app.py", "gateway/access", "gateway/routes")),
    (
        "validation",
        (
            "gateway/schema",
            "gateway/bodies",
            "gateway/settings",
            "pipelines/families",
            "pipelines/catalogue",
            "pipelines/samplers",
            "gateway/terms",
        ),
    ),
    ("planning turn", ("planner/", "gateway/turn", "gateway/decisions", "gateway/roster")),
    ("wire", ("wire/codec", "wire/sockets", "wire/to_", "/zmq/", "/msgpack/", "gateway/keys")),
    ("files", ("wire/handoff", "wire/handle", "gateway/handoffs", "gateway/encodes", "gateway/files")),
    (
        "log, journal, metrics",
        (
            "/logging/",
            "gateway/accounts",
            "gateway/journal",
            "gateway/logs",
            "gateway/metrics",
            "gateway/gauges",
            "/prometheus_client/",
            "gateway/slip",
            "gateway/request_log",
            "gateway/timings",
            "gateway/lag",
        ),
    ),
    ("reply", ("gateway/images", "gateway/replies", "/json/", "/base64.py")),
    ("jobs and tasks", ("gateway/", "pipelines/graph")),
)
OTHER = "event loop and library"


def part_of(file: str) -> str:
    """The part that Python code of that file is of."""
    return next((name for name, places in PARTS if any(place in file for place in places)), OTHER)


def seconds_by_part(profile: Path) -> dict[str, float]:
    """Seconds of each part. Raises `OSError` if there is no profile."""
    stats: dict[Function, Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    seconds: Counter[str] = Counter()
    for (file, _, _), (_, _, own_s, _, callers) in stats.items():
        if file != "~" or not callers:
            seconds[part_of(file)] += own_s
            continue
        for (caller, _, _), (_, _, of_caller_s, _) in callers.items():
            seconds[part_of(caller)] += of_caller_s
    return dict(seconds)


def slowest(profile: Path, n: int) -> list[tuple[str, float, int]]:
    """The functions with the most time of their own: name, seconds, calls."""
    stats: dict[Function, Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    ranked = sorted(stats.items(), key=lambda item: -item[1][2])[:n]
    return [(_name(function), own_s, calls) for function, (_, calls, own_s, _, _) in ranked]


def _name(function: Function) -> str:
    file, line, name = function
    return name if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {name}"
