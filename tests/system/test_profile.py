"""A real node measures its model once, and pictures do not notice."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.profiles import Kept
from tests.system.nodes import cpu_node
from tests.system.pictures import STAGES, expected_picture, picture_of, post
from worker.resident import ResidentModel

pytestmark = [pytest.mark.process]


async def test_a_node_measures_its_model_and_the_next_one_reads_it(
    catalogue: Path, whole: ResidentModel, tmp_path: Path
) -> None:
    body = {"prompt": "a cat", "num_inference_steps": 4, "seed": 5}
    expected = expected_picture(whole, body)
    kept = tmp_path / "profiles"
    flags = ("--catalogue", str(catalogue), "--profile", "auto", "--profiles", str(kept))
    async with cpu_node(tmp_path, "tiny", 2, *flags, "--profile-bound-s", "5") as node:
        status, reply, _ = await post(node, **body)
        assert status == 200, reply
        assert picture_of(reply) == expected
        log = node.log.read_text()
        assert log.count(" measuring tiny, about 5 s") == 1
        assert " tiny is measured" in log
        assert "denoise: fitted as " in log
    [file] = kept.iterdir()
    found = msgspec.json.decode(file.read_bytes(), type=Kept).measurements
    assert {each.stage for each in found.measured} == set(STAGES)
    # where the same of everything is asked for, nothing is measured
    async with cpu_node(tmp_path, "tiny", 2, *flags, "--profile-bound-s", "5") as node:
        status, reply, _ = await post(node, **body)
        assert picture_of(reply) == expected
        log = node.log.read_text()
        assert "its profile is read from" in log
        assert " measuring tiny" not in log
