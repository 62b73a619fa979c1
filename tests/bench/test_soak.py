"""The soak bench: its checks can fail, and a short one over workers that answer at once passes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.render import rendered
from bench.soak import Holding, Plan, Sample, Soak, run
from bench.soak_checks import checks, growth, report
from bench.soak_table import plot

MIB = 1024**2
HOST = {
    "device": "CPU",
    "cpu": "c",
    "cores": 2,
    "threads": 1,
    "versions": {},
    "commit": "abc",
    "load_average": {"before": 0, "after": 0},
}


def plan(folder: Path = Path("nowhere"), **fields: Any) -> Plan:
    usual: dict[str, Any] = {"load_s": 60.0, "idle_s": 10.0, "max_open": 4, "steps": 2, "devices": None}
    return Plan(model="triptych-emoji", folder=folder, **{**usual, **fields})


def sample(at_s: float, pss_bytes: float = 100 * MIB, **fields: Any) -> Sample:
    usual: dict[str, Any] = {
        "n_clients": 0,
        "n_answered": 0,
        "health_ms": 1.0,
        "n_open": 0,
        "store_bytes": 0,
        "store_files": 0,
        "kept_bytes": 0,
    }
    held = Holding(
        pss_bytes=int(pss_bytes),
        n_descriptors=fields.pop("n_descriptors", 20),
        n_threads=fields.pop("n_threads", 4),
    )
    return Sample(at_s=at_s, processes={"gateway": held}, **{**usual, **fields})


def soak(*samples: Sample) -> Soak:
    return Soak(plan(), [*samples], Counter({"200": 9}), load_end_s=61.0)


LOADED = [sample(float(at_s), (100 + at_s / 10) * MIB, n_open=3, store_bytes=50) for at_s in range(1, 61)]


def failed(of: Soak) -> list[str]:
    return [check.name for check in checks(of) if not check.passed]


def test_a_line_through_the_points() -> None:
    assert growth([0.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 11.0]) == pytest.approx(6.0)
    assert growth([0.0, 1.0, 2.0], [5.0, 5.0, 5.0]) == 0.0
    assert growth([1.0], [5.0]) == 0.0


def test_a_node_that_holds_what_it_held_passes() -> None:
    assert failed(soak(sample(0.0), *LOADED, sample(80.0, 106 * MIB))) == []


@pytest.mark.parametrize(
    ("end", "failing"),
    [
        (sample(80.0, 130 * MIB), "memory of gateway"),
        (sample(80.0, n_descriptors=21), "descriptors of gateway"),
        (sample(80.0, n_threads=60), "threads of gateway"),
        (sample(80.0, store_bytes=1), "shared memory"),
        (sample(80.0, n_open=1), "shared memory"),
    ],
)
def test_each_check_can_fail(end: Sample, failing: str) -> None:
    assert failed(soak(sample(0.0), *LOADED, end)) == [failing]


def test_growth_under_load_fails() -> None:
    leaking = [sample(float(at_s), (100 + at_s) * MIB) for at_s in range(1, 61)]
    assert failed(soak(sample(0.0), *leaking, sample(80.0))) == ["memory of gateway"]


def test_a_request_without_pictures_fails() -> None:
    lost = soak(sample(0.0), *LOADED, sample(80.0))
    lost.outcomes["500"] += 1
    assert failed(lost) == ["every request answered"]


async def test_a_short_one_over_workers_that_answer_at_once(tmp_path: Path) -> None:
    done = await run(plan(tmp_path, load_s=3.0, idle_s=2.0), lambda line: None)
    assert set(done.outcomes) == {"200"}
    # a process that has just started still grows
    assert not [name for name in failed(done) if not name.startswith("memory")]
    assert {"gateway", "cpu-0", "cpu-1"} == done.samples[-1].processes.keys()
    assert max(seen.n_clients for seen in done.samples) >= 3
    raw = tmp_path / "soak.json"
    raw.write_text(json.dumps(report(replace(done)) | HOST))
    assert "| every request answered | passed |" in rendered(raw)
    plot(json.loads(raw.read_text()), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000
