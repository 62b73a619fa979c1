"""A fuzzer's requests for pictures on a real node: what the schema allows reaches the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.fuzz import fuzzed
from tests.system.nodes import cpu_node

pytestmark = pytest.mark.process

MODEL = "triptych-emoji"


async def test_twenty_requests_for_pictures(tmp_path: Path) -> None:
    async with cpu_node(tmp_path, MODEL, 2) as node:
        flags = ("--phases", "fuzzing", "--max-examples", "20", "--include-operation-id", "generateImages")
        n_sent = await fuzzed(node.base_url, tmp_path, *flags, model=MODEL, max_images=2, max_steps=2)
        assert n_sent >= 20
        assert await node.metric("triptych_requests_total", outcome="done") > 5
        assert await node.metric("triptych_requests_total", outcome="failed") == 0
        assert await node.metric("triptych_worker_restarts_total") == 0
