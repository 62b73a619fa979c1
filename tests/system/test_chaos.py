"""The chaos bench in short, with real processes: one worker is killed, then one is stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos import Plan, run
from bench.chaos_checks import checks
from pipelines.catalogue import load_catalogue

pytestmark = pytest.mark.process


async def test_nothing_is_lost_when_workers_are(tmp_path: Path) -> None:
    plan = Plan(
        name="triptych-emoji",
        model=load_catalogue()["triptych-emoji"],
        devices=("--cpu", "2"),
        n_workers=2,
        n_requests=20,
        min_kills=2,
        kill_every_s=1.0,
        concurrency=4,
        heartbeat_timeout_s=2.0,
        seed=0,
        folder=tmp_path,
    )
    chaos = await run(plan, print)
    assert {kill.how for kill in chaos.disturbed.kills} == {"SIGKILL", "SIGSTOP"}
    for check in checks(chaos):
        assert check.passed, check.text
