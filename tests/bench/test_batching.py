"""Batches and checkpoints as they are measured, on a tiny model; what is wrong is refused."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bench import batching, batching_differences, checkpoints, render
from bench.batching import ALONE, WAYS, Plan, Refused, Turn, Way
from bench.device_driver import DeviceDriver, DeviceFailed
from pipelines.catalogue import Model
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES

HOST = {
    "commit": "abc",
    "device": "CPU",
    "cpu": "none",
    "cores": 2,
    "threads": 1,
    "load_average": {"before": 0.1, "after": 0.2},
    "versions": {"python": "3.11"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DeviceDriver]:
    with DeviceDriver("cpu", tmp_path / "store") as driver:
        yield driver


def test_batches_are_measured_and_rendered(driver: DeviceDriver, model: Model, tmp_path: Path) -> None:
    plan = Plan(name="tiny", model=model, stages=STAGES, n_pictures=8, n_repeats=1, steps=8, seed=1)
    driver.load("tiny", model, STAGES)
    said: list[str] = []
    repeats = batching.measure(plan, driver, said.append)
    assert len(said) == 1
    assert driver.store.used_bytes() == 0
    rows = batching_differences.differences({"sd3": sd3}, tmp_path)
    result = {**HOST, **batching.report(plan, repeats), "differences": {"commit": "c0ffee", "rows": rows}}
    assert [way["name"] for way in result["ways"]] == [way.name for way in WAYS]
    assert result["ways"][0]["same_bytes"] == 8
    assert 0 < rows[0]["joining"]["relative"] < 1e-5
    assert 0 < rows[0]["encode"]["relative"] < 1e-5
    file = tmp_path / "batching.json"
    file.write_text(json.dumps(result), "utf-8")
    text = render.rendered(file)
    assert "| 8 in lockstep |" in text
    assert "| sd3 |" in text
    assert "of commit c0ffee" in text


def _png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, format="PNG")
    return buffer.getvalue()


def test_other_pictures_are_refused() -> None:
    way = Way(size=2)
    alone = Turn(seconds=1.0, cpu_s=1.0, pictures=[_png(10)] * 2, n_shared=0)
    near = Turn(seconds=1.0, cpu_s=1.0, pictures=[_png(11)] * 2, n_shared=2)
    far = dataclasses.replace(near, pictures=[_png(10), _png(20)])
    batching.compare({ALONE: alone, way: near})
    with pytest.raises(Refused, match="picture 1 is 10 levels"):
        batching.compare({ALONE: alone, way: far})
    with pytest.raises(Refused, match="1 of 2 pictures shared"):
        batching.compare({ALONE: alone, way: dataclasses.replace(near, n_shared=1)})


def test_calls_that_are_not_shared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the last one enters when the others have gone
    monkeypatch.setattr(batching_differences, "JOINING", (0, 0, 100))
    with pytest.raises(Refused, match="joining"):
        batching_differences.differences({"sd3": sd3}, tmp_path)


def test_pauses_are_measured_and_rendered(driver: DeviceDriver, model: Model, tmp_path: Path) -> None:
    plan = checkpoints.Plan(name="tiny", model=model, steps=60, n_pauses=2, seed=1)
    row = checkpoints.measure(plan, driver)
    assert row["bytes"] > 1000
    assert max(row["late_steps"]) <= 1
    result = {**HOST, "benchmark": "checkpoints", "question": "?", "n": 2, "seed": 1, "families": [row]}
    file = tmp_path / "checkpoints.json"
    file.write_text(json.dumps(result), "utf-8")
    assert "| tiny |" in render.rendered(file)


def test_a_failure_is_told(driver: DeviceDriver, model: Model) -> None:
    with pytest.raises(DeviceFailed, match="no_such"):
        driver.load("tiny", model, ("no_such",))
