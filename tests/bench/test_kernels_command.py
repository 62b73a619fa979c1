"""Every section of `bench kernels` in small, under Triton's interpreter, and the form for a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.kernels.rows import read
from bench.node import CHECKOUT


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "bench", "kernels", "--threads", "1", *arguments],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_section_runs(tmp_path: Path) -> None:
    done = command("--tiny", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "kernels_tiny.jsonl")
    assert {row.section for row in rows} == {"ceilings", "attention", "decode", "denoise", "ops"}
    for row in rows:
        # of torch's backends a CPU has not every one
        assert set(row.failed) <= {"flash", "efficient", "cudnn"}, (row.section, row.name, row.failed)
        assert all(len(times) == 2 for times in row.times_s.values()), row
    variants = {(row.section, row.name): set(row.times_s) for row in rows}
    assert variants["decode", "16 px, compiled"] == {"diffusers", "channels-last", "compiled", "kernels"}
    assert variants["denoise", "Flux"] == {"off", "attention", "norms", "on"}
    assert variants["denoise", "SD3-medium, compiled"] == {"off", "on"}
    assert variants["attention", "tiny"] >= {"torch", "kernel", "math"}


def test_the_form_for_a_cpu_is_measured(tmp_path: Path) -> None:
    done = command("--cpu", "--tiny", "--rounds", "2", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "kernels_cpu.json").read_text())
    (row,) = result["rows"]
    assert set(row["times_s"]) == {"diffusers", "form for a CPU"}
    assert "| 64 px | form for a CPU |" in (tmp_path / "kernels_cpu.md").read_text()
