"""The chaos bench: its load is the same each time, and each of its checks can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.chaos import Chaos, Disturbed, Kill, Plan, patient, ready_at_s, request
from bench.chaos_checks import checks, noticed_s, recovery_s, report
from bench.load import Result, TimedRequest
from bench.render import rendered
from pipelines.catalogue import load_catalogue

MODEL = load_catalogue()["triptych-emoji"]
PLAN = Plan(
    name="triptych-emoji",
    model=MODEL,
    devices=("--cpu", "2"),
    n_workers=2,
    n_requests=2,
    min_kills=1,
    kill_every_s=1.0,
    concurrency=2,
    heartbeat_timeout_s=2.0,
    seed=3,
    folder=Path("nowhere"),
)
STAGES = ("text_encoder", "denoise", "decode")


def worker(at_s: float, state: str, name: str = "cpu-0") -> dict[str, Any]:
    return {"event": "worker", "worker": name, "state": state, "at_s": at_s}


def warm(at_s: float, stage: str, name: str = "cpu-0") -> dict[str, Any]:
    return {"event": "stage", "worker": name, "job": None, "stage": stage, "ended_at_s": at_s}


def ended(request_id: str) -> dict[str, Any]:
    return {"event": "request", "request": request_id, "outcome": "done", "at_s": 15.0}


LIFE = [
    worker(1.0, "up"),
    *(warm(2.0 + i, stage) for i, stage in enumerate(STAGES)),
    worker(10.5, "dead"),
    worker(10.6, "starting"),
    worker(14.0, "up"),
    *(warm(15.0 + i, stage) for i, stage in enumerate(STAGES)),
]
KILL = Kill(worker="cpu-0", how="SIGKILL", pid=1, at_s=10.0)


def result(index: int, **fields: Any) -> Result:
    asked = TimedRequest(prompt="fox", seed=index, fields={"exactness": "bitwise"})
    usual: dict[str, Any] = {
        "index": index,
        "request": asked,
        "due_s": 0.0,
        "sent_s": 0.0,
        "latency_s": 1.0,
        "status": 200,
        "request_id": f"req-{index}",
        "timing_ms": {},
        "pictures": (b"picture",),
    }
    return Result(**{**usual, **fields})


def good() -> Chaos:
    run = Disturbed(
        results=[result(0), result(1)],
        kills=[KILL],
        journal=[*LIFE, ended("req-0"), ended("req-1")],
        retries={"worker_lost": 1.0},
        restarts=1.0,
        counted=2.0,
        left_bytes=0.0,
        problems=[],
        took_s=20.0,
    )
    return Chaos(PLAN, run, {0: result(0), 1: result(1)})


def test_the_load_is_the_same_each_time_and_mixed() -> None:
    requests = [request(PLAN, index) for index in range(200)]
    assert requests == [request(PLAN, index) for index in range(200)]
    assert requests != [request(replace(PLAN, seed=4), index) for index in range(200)]
    for key, values in (("exactness", 2), ("output_format", 3), ("priority", 3)):
        assert len({asked.fields[key] for asked in requests}) == values
    assert {asked.n for asked in requests} == {1, 2, 3}
    assert 0 < sum(asked.leave_after_s is not None for asked in requests) < 40
    assert any(asked.fields.get("drop_if_late") for asked in requests)
    assert len({asked.size for asked in requests}) > 10


def test_a_worker_is_ready_when_its_process_has_run_every_stage() -> None:
    assert ready_at_s(LIFE, "cpu-0", 3) == 17.0
    assert ready_at_s(LIFE[:4], "cpu-0", 3) == 4.0
    assert ready_at_s(LIFE[:5], "cpu-0", 3) is None
    assert ready_at_s(LIFE, "cpu-1", 3) is None


def test_times_from_a_kill_are_those_of_its_own_recovery() -> None:
    later = [worker(30.0, "dead"), worker(31.0, "up")]
    for journal in (LIFE, LIFE + later):
        assert (noticed_s(journal, KILL), recovery_s(journal, KILL)) == (0.5, 7.0)
    assert recovery_s(LIFE[:7], KILL) is None


def test_a_good_run_passes_and_is_rendered(tmp_path: Path) -> None:
    assert [check.passed for check in checks(good())] == [True] * 5
    raw = tmp_path / "chaos.json"
    host = {
        "device": "CPU",
        "cpu": "c",
        "cores": 2,
        "threads": 1,
        "load_average": {"before": 0, "after": 0},
        "versions": {},
        "commit": "abc",
    }
    raw.write_text(json.dumps(report(good()) | host))
    assert "| SIGKILL | 1 | 0.50 (0.50) | 7.00 (7.00) |" in rendered(raw)
    assert "FAILED" not in rendered(raw)


DROPPED = TimedRequest(prompt="fox", seed=1, fields={"drop_if_late": True})


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (
            {"results": [result(0), result(1, status=500, error="worker_died_twice")]},
            "every request answered",
        ),
        ({"results": [result(0), result(1, status=504, error="x", code="deadline_missed")]}, "every request"),
        ({"results": [result(0), result(1, request_id="req-0")]}, "once each"),
        ({"results": [result(0), result(1, request_id="req-9")]}, "once each"),
        ({"journal": [*LIFE, ended("req-0"), ended("req-1"), ended("req-1")]}, "once each"),
        ({"journal": [*LIFE, ended("req-0"), ended("req-1"), ended("req-2")]}, "once each"),
        ({"counted": 3.0}, "once each"),
        ({"results": [result(0), result(1, pictures=(b"another",))]}, "same pictures"),
        ({"restarts": 2.0}, "workers recovered"),
        ({"kills": []}, "workers recovered"),
        ({"journal": [*LIFE[:6], ended("req-0"), ended("req-1")]}, "workers recovered"),
        ({"left_bytes": 1.0}, "nothing left"),
        ({"problems": ["process 5 is left"]}, "nothing left"),
    ],
)
def test_each_check_can_fail(change: dict[str, Any], failing: str) -> None:
    chaos = good()
    chaos.disturbed = replace(chaos.disturbed, **change)
    failed = [check.name for check in checks(chaos) if not check.passed]
    assert len(failed) == 1, failed
    assert failed[0].startswith(failing)


def test_the_undisturbed_run_waits_for_its_pictures() -> None:
    hurried = replace(DROPPED, leave_after_s=0.1, slo_ms=5.0)
    assert patient(hurried) == TimedRequest(prompt="fox", seed=1, slo_ms=5.0)


def test_what_a_client_asked_for_itself_is_no_loss() -> None:
    chaos = good()
    left = result(1, status=None, request_id="", error="no reply", left=True)
    dropped = result(2, request=DROPPED, status=504, error="late", code="deadline_missed")
    chaos.disturbed = replace(
        chaos.disturbed,
        results=[result(0), left, dropped],
        journal=[*LIFE, *(ended(f"req-{i}") for i in range(3))],
        counted=3.0,
    )
    assert all(check.passed for check in checks(chaos))
