"""`Server-Timing` of both kinds of reply."""

from __future__ import annotations

import re

import pytest

from tests.gateway.conftest import Start


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
async def test_the_parts_add_up_for_both_kinds_of_reply(start: Start, response_format: str) -> None:
    bench = await start()
    response = await bench.post(n=2, response_format=response_format)
    assert response.status == 200
    named = re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"])
    parts = {name: float(ms) for name, ms in named}
    assert list(parts)[-2:] == ["reply", "total"]
    total = parts.pop("total")
    assert parts["reply"] >= 0
    assert total == pytest.approx(sum(parts.values()), abs=0.1 * len(parts))
