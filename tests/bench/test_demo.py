from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from bench import demo_command
from bench.demo import DemoConfig
from bench.demo_checks import check_requests, check_same_pictures
from bench.load import Result, TimedRequest
from bench.mix import mixed_requests, shift_shapes
from bench.room import CannotShift, held_bytes, kept_measurements, memory_between
from pipelines.catalogue import Model, load_catalogue
from planner.types import Shape
from tests.bench.fake import FakeFleet, measurements


@pytest.fixture
def model() -> Model:
    return load_catalogue()["triptych-emoji"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests arrive at once, and a rule that does nothing is given up soon."""

    def at_once(model: Model) -> list[TimedRequest]:
        return [replace(request, at_s=0.0) for request in mixed_requests(model)]

    def soon(**fields: Any) -> DemoConfig:
        return DemoConfig(**fields, shift_limit_s=0.2)

    monkeypatch.setattr("bench.demo.mixed_requests", at_once)
    monkeypatch.setattr(demo_command, "DemoConfig", soon)


def moving(**more: Any) -> FakeFleet:
    """Gateways that do as they should, but for `more`: settings by phase."""
    return FakeFleet({"auto": {"split_at": 9, "join_at": 25}} | more)


def test_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = moving()
    assert demo_command.main(["--out", str(tmp_path / "out"), "--cpu", "2"], start=fleet.start) == 0
    assert [config.name for config in fleet.configs] == ["gateway-colocated", "gateway-split", "gateway-auto"]
    assert [config.placement for config in fleet.configs] == [
        "colocated",
        "cpu-0=text_encoder+decode,cpu-1=denoise",
        "auto",
    ]
    assert all(config.workers == ("--cpu", "2") for config in fleet.configs)
    assert fleet.n_stopped == 3
    out = tmp_path / "out"
    for name in ("contact-sheet.png", "timeline.png"):
        with Image.open(out / name) as image:
            assert image.width > 1000
    assert len(list((out / "pictures" / "split").glob("*.png"))) == 14
    assert (out / "pictures" / "colocated" / "001-fox-seed8.png").is_file()
    report = json.loads((out / "report.json").read_text())
    assert report["passed"]
    assert [phase["name"] for phase in report["phases"]] == ["colocated", "split", "auto"]
    reasons = [change["reason"] for change in report["phases"][2]["changes"]]
    assert reasons == ["mix_shifted", "mix_shifted"]
    assert report["phases"][0]["requests"][0]["server_timing_ms"]["diffuse"] == 20.0
    assert "mix_shifted: denoise took 93 %" in (out / "report.md").read_text()
    said = capsys.readouterr().out
    assert "the same 14 pictures, byte for byte" in said
    assert "mix_shifted: denoise took 93 %" in said
    assert "FAIL" not in said


def test_pictures_that_differ_fail_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = moving(split={"salt": "other"})
    assert demo_command.main(["--out", str(tmp_path)], start=fleet.start) == 1
    said = capsys.readouterr()
    assert "FAIL" in said.out
    assert "demo: FAILED: pictures of co-located and split stages differ: request 1 (fox)" in said.err
    assert not json.loads((tmp_path / "report.json").read_text())["passed"]


def test_no_placement_change_fails_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_command.main(["--out", str(tmp_path)], start=FakeFleet().start) == 1
    assert "demo: FAILED: no placement change with a reason" in capsys.readouterr().err


def test_a_failed_request_fails_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = moving(colocated={"fail_at": 2})
    assert demo_command.main(["--out", str(tmp_path)], start=fleet.start) == 1
    assert "requests failed; request " in capsys.readouterr().err


def test_the_shift_ends_at_the_first_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = moving(auto={"fail_at": 4})
    assert demo_command.main(["--out", str(tmp_path)], start=fleet.start) == 1
    requests = json.loads((tmp_path / "report.json").read_text())["phases"][2]["requests"]
    assert 4 <= len(requests) <= 6
    assert "1 of " in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def interrupt(n_requests: int) -> None:
        if n_requests == 2:
            os.kill(os.getpid(), number)

    fleet = moving(split={"on_request": interrupt})
    assert demo_command.main(["--out", str(tmp_path)], start=fleet.start) == 128 + number
    assert (len(fleet.configs), fleet.n_stopped) == (2, 2)
    assert f"interrupted ({number.name})" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "pictures" / "auto" / "999-old.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    (tmp_path / "mine.txt").write_text("kept")
    assert demo_command.main(["--out", str(tmp_path)], start=moving().start) == 0
    assert not stale.exists()
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize(
    ("flags", "workers", "ids"),
    [
        ([], ("--cpu", "2"), ("cpu-0", "cpu-1")),
        (["--cpu", "1"], ("--cpu", "2"), ("cpu-0", "cpu-1")),
        (["--gpus", "3"], ("--cpu", "2"), ("cpu-0", "cpu-1")),
        (["--gpus", "2-5"], ("--gpus", "2,3"), ("gpu-2", "gpu-3")),
        (["--gpus", "4,1,0"], ("--gpus", "4,1"), ("gpu-4", "gpu-1")),
    ],
)
def test_two_workers_whatever_is_asked(
    flags: list[str], workers: tuple[str, ...], ids: tuple[str, ...], tmp_path: Path
) -> None:
    from bench.progress import make_console

    parsed = demo_command.parser().parse_args([*flags, "--out", str(tmp_path)])
    config = demo_command.configuration(parsed, make_console())
    assert (config.workers, config.worker_ids) == (workers, ids)


@pytest.mark.parametrize("flags", [["--model", "none"], ["--gpus", "x"], ["--gpus", "1,1"]])
def test_wrong_flags(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_command.main([*flags, "--out", str(tmp_path)], start=FakeFleet().start) == 2
    assert capsys.readouterr().err.startswith("demo: ")


def test_checks_without_results_do_not_pass() -> None:
    assert not check_requests([]).passed
    assert not check_same_pictures([], []).passed


def test_a_missing_picture_is_a_difference() -> None:
    request = TimedRequest(prompt="fox", seed=1, n=2)
    whole = Result(
        index=0, request=request, due_s=0, sent_s=0, latency_s=1, timing_ms={}, pictures=(b"a", b"b")
    )
    assert check_same_pictures([whole], [whole]).passed
    assert not check_same_pictures([whole], [replace(whole, pictures=(b"a",))]).passed
    with pytest.raises(ValueError, match="not the same in both"):
        check_same_pictures([whole], [replace(whole, request=replace(request, seed=2))])


def test_half_and_twice_the_usual_size(model: Model) -> None:
    assert shift_shapes(model) == (Shape(64, 64), Shape(256, 256))
    narrow = msgspec.structs.replace(model, min_size_px=96, max_size_px=130)
    assert shift_shapes(narrow) == (Shape(96, 96), Shape(128, 128))


# 4 + 8 + 4 of weights; the largest peak is the decode's, of 10 for small pictures and of 40 for large ones
MEASURED = measurements(peaks={"decode": (10, 40)})
KINDS = {"text_encoder": "encode", "denoise": "diffuse", "decode": "decode"}
SMALL, LARGE = Shape(64, 64), Shape(256, 256)


def test_memory_that_holds_all_stages_for_small_pictures_only() -> None:
    assert held_bytes(MEASURED, tuple(KINDS), "denoise", SMALL) == {"all": 26, "loop": 8, "rest": 18}
    assert held_bytes(MEASURED, tuple(KINDS), "denoise", LARGE) == {"all": 56, "loop": 8, "rest": 48}
    assert memory_between(MEASURED, KINDS, SMALL, LARGE) == 52


def test_a_model_that_memory_does_not_split() -> None:
    flat = measurements(peaks={"decode": (10, 10)})
    with pytest.raises(CannotShift, match="all stages need 26 bytes for pictures of 256 px"):
        memory_between(flat, KINDS, SMALL, LARGE)


def test_a_profile_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CannotShift, match="no profile of m was kept"):
        kept_measurements(tmp_path, "m")
