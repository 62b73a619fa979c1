"""Real workers share one copy of weights, and one that is started again needs nothing from disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench.catalogue_file import catalogue_file
from bench.pss import mapped_bytes, pss_bytes
from tests.families.sd3 import sd3
from tests.system.nodes import cpu_node
from tests.system.pictures import picture_of, post

pytestmark = [pytest.mark.process, pytest.mark.asyncio]


async def test_one_copy_for_all_and_for_those_that_come_back(tmp_path: Path) -> None:
    model = sd3(tmp_path / "model")
    catalogue = catalogue_file(tmp_path, "tiny", model)
    body = {"prompt": "a cat", "num_inference_steps": 4, "seed": 21, "size": "32x32"}
    async with cpu_node(tmp_path / "node", "tiny", 2, "--catalogue", str(catalogue)) as node:
        _, before, _ = await post(node, **body)
        pids = node.worker_pids()

        async def is_shared() -> bool:
            """Each has used most of it, so that its pages count half."""
            mapped = [mapped_bytes(pid, "/weights/component-") for pid in pids.values()]
            resident_bytes = sum(sums["Rss"] for sums in mapped)
            return 0 < sum(sums["Pss"] for sums in mapped) < 0.7 * resident_bytes

        await node.wait_until(is_shared, "both workers to use one copy")
        assert all(pss_bytes(pid) > 0 for pid in pids.values())
        # the second to load found what the first had written
        loads = [line for line in node.read_log().splitlines() if ": loaded " in line]
        assert sum("transformer from disk" in line for line in loads) == 1
        n_from_disk = sum("from disk" in line for line in loads)

        os.rename(model.source, f"{model.source}-away")
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)

        async def came_back() -> bool:
            fresh = node.worker_pids()
            return fresh.keys() == pids.keys() and not set(fresh.values()) & set(pids.values())

        async def loaded_again() -> bool:
            return node.read_log().count("transformer from host") >= 3

        await node.wait_until(came_back, "new workers")
        await node.wait_until(loaded_again, "both to load")
        _, after, _ = await post(node, **body)
        assert picture_of(after) == picture_of(before)
        loads = [line for line in node.read_log().splitlines() if ": loaded " in line]
        assert sum("from disk" in line for line in loads) == n_from_disk
