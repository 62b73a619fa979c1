"""The cost bench, in small: a real gateway over workers that answer at once, measured and profiled."""

from __future__ import annotations

import cProfile
import json
from pathlib import Path

import pytest

from bench.gateway_cost import Plan, run
from bench.gateway_parts import OTHER, part_of, seconds_by_part, slowest
from bench.render import rendered
from gateway.journal import Journal


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("/checkout/gateway/turn.py", "planning turn"),
        ("/checkout/planner/dispatch.py", "planning turn"),
        ("/checkout/gateway/schema.py", "validation"),
        ("/checkout/gateway/runs.py", "jobs and tasks"),
        ("/env/site-packages/zmq/_future.py", "wire"),
        ("/env/site-packages/aiohttp/web_protocol.py", "HTTP"),
        ("/usr/lib/python3.11/asyncio/tasks.py", OTHER),
    ],
)
def test_files_belong_to_parts(file: str, part: str) -> None:
    assert part_of(file) == part


def test_time_in_c_is_its_callers(tmp_path: Path) -> None:
    journal = Journal(None)
    with cProfile.Profile() as profile:
        for _ in range(1000):
            journal.statistics()
    file = tmp_path / "a.prof"
    profile.dump_stats(file)
    seconds = seconds_by_part(file)
    assert seconds["log, journal, metrics"] > 0
    assert sum(seconds.values()) == pytest.approx(sum(own_s for _, own_s, _ in slowest(file, 100)))
    assert ("gateway/journal.py", 1000) in {(name.split(":")[0], n) for name, _, n in slowest(file, 3)}


async def test_a_gateway_is_measured(tmp_path: Path) -> None:
    plan = Plan(model="triptych-emoji", levels=((1, 10), (8, 20)), steps=4, n_repeats=1, folder=tmp_path)
    said: list[str] = []
    result = await run(plan, said.append)
    assert len(said) == 2
    for level, n in zip(result["levels"], (10, 20), strict=True):
        assert level["n"] == n
        assert level["cpu_ms"]["p50"] > 0
        assert {"wire", "HTTP", "planning turn"} <= level["parts_ms"].keys()
        assert sum(level["parts_ms"].values()) == pytest.approx(level["cpu_ms"]["p50"], rel=0.01)
    host = {"device": "CPU", "cpu": "c", "cores": 2, "threads": 1, "versions": {}, "commit": "abc"}
    raw = tmp_path / "cost.json"
    raw.write_text(json.dumps(result | host | {"load_average": {"before": 0, "after": 0}}))
    assert "| part | 1 open | 8 open |" in rendered(raw)
