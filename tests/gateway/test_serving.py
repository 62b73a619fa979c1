"""Requests from HTTP to picture over a scripted fleet."""

from __future__ import annotations

import base64
import re

from tests.gateway.conftest import Start, until
from tests.gateway.scripted import picture_of


async def test_a_picture_comes_back_with_its_seed(start: Start) -> None:
    bench = await start()
    response = await bench.post(seed=7)
    assert response.status == 200
    reply = await response.json()
    assert [(base64.b64decode(d["b64_json"]), d["seed"]) for d in reply["data"]] == [(picture_of(7), 7)]
    assert reply["size"] == "128x128"
    assert (reply["output_format"], reply["background"]) == ("png", "opaque")
    assert "quality" not in reply
