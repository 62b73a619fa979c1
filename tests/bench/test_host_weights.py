"""Loads from disk and from the host copy as they are measured, on a tiny model."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import pytest

from bench import render
from bench.device_driver import DeviceDriver
from bench.host_weights import Plan, Refused, loads
from bench.pss import mapped_bytes, pss_bytes
from tests.bench.test_batching import HOST
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES, make_task
from worker.host_folder import HostFolder

MEMORY = {
    "name": "with one host copy",
    "n_workers": 2,
    "pss_bytes": [3_000_000, 4_000_000],
    "mapped_pss_bytes": [500_000, 500_000],
    "mapped_rss_bytes": [1_000_000, 1_000_000],
}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(model=sd3(tmp_path / "model"), stages=STAGES, generation=make_task("t").generation, n_loads=2)


def test_loads_are_measured_and_rendered(plan: Plan, tmp_path: Path) -> None:
    host = HostFolder(tmp_path / "weights", 10**8)
    with DeviceDriver("cpu", tmp_path / "one") as disk, DeviceDriver("cpu", tmp_path / "two", host) as shared:
        measured = loads(plan, disk, shared)
    assert measured["n_pictures_compared"] == 6
    assert [way["n"] for way in measured["ways"]] == [2, 2]
    assert measured["host_bytes"] == host.used_bytes() > 0
    result = {
        **HOST,
        "benchmark": "host_weights",
        "question": "What?",
        "model": "tiny",
        "loads": measured,
        "memory": [MEMORY],
    }
    file = tmp_path / "host_weights.json"
    file.write_text(json.dumps(result), "utf-8")
    text = render.rendered(file)
    assert "| from the host copy |" in text
    assert "| with one host copy | 2 | 7.0 | 1.0 | 2.0 |" in text


def test_a_load_that_comes_from_elsewhere_is_refused(plan: Plan, tmp_path: Path) -> None:
    with (
        DeviceDriver("cpu", tmp_path / "one") as disk,
        DeviceDriver("cpu", tmp_path / "two") as other,
        pytest.raises(Refused, match="from the host copy came from"),
    ):
        loads(plan, disk, other)


def test_what_is_mapped_is_found(tmp_path: Path) -> None:
    file = tmp_path / "mapped-by-a-test"
    file.write_bytes(b"x" * 8 * mmap.PAGESIZE)
    own = os.getpid()
    assert mapped_bytes(own, file.name) == {"Rss": 0, "Pss": 0}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[-1] == mapped[0] == ord("x")
        assert sum(mapped[:: mmap.PAGESIZE]) == 8 * ord("x")
        assert mapped_bytes(own, file.name)["Rss"] == 8 * mmap.PAGESIZE
        assert pss_bytes(own) > mapped_bytes(own, file.name)["Pss"] > 0
