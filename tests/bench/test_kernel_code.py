"""The command that compiles kernels for a GPU that need not be here: what it counts, tells and exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import kernel_code_command
from bench.kernels import code
from bench.kernels.code import Case, Code


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """One op, one shipped call that fits, and one that the tuner tries and that does not."""
    shipped = [Case("shipped", (64, 64), lambda: None)]
    monkeypatch.setattr(code, "op_cases", lambda: [Case("an op", (), lambda: None)])
    monkeypatch.setattr(code, "shipped_cases", lambda arch: shipped)
    monkeypatch.setattr(
        code, "candidate_cases", lambda arch: [*shipped, Case("tried", (128, 128), lambda: None)]
    )
    monkeypatch.setattr(code, "compiled", made)
    return shipped


def made(case: Case, arch: int) -> list[Code]:
    shared = {"an op": 0, "shipped": 64, "tried": 300}.get(case.call)
    if shared is None:
        return [Code(call=case.call, arch=arch, kernel="", failed="CompilationError: no")]
    return [
        Code(
            call=case.call,
            arch=arch,
            kernel="_k",
            settings=case.settings,
            warps=4,
            registers=128,
            spilled_bytes=8 * (case.call == "tried"),
            shared_bytes=shared * 1024,
        )
    ]


def test_what_is_shipped_and_what_is_tried(
    few: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kernel_code_command.main(["--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "kernel_code.json").read_text())["rows"]
    told = [(row["arch"], row["call"], row["is_shipped"], row["warps_resident"]) for row in rows]
    # by registers 16 warps of 128 fit, by shared memory three programs of 64 KiB, two on the older one
    assert told == [
        (90, "an op", True, 16),
        (90, "shipped", True, 12),
        (90, "tried", False, 0),
        (80, "an op", True, 16),
        (80, "shipped", True, 8),
    ]
    text = (tmp_path / "kernel_code.md").read_text()
    assert "1 kernels: 0 do not compile, 1 do not fit into shared memory, 1 spill." in text
    assert "| shipped | _k | 64 64 | 128 | 0 | 64 | 12 |" in text
    assert "FAILED" not in capsys.readouterr().err


def test_what_is_shipped_has_to_compile(
    few: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few.append(Case("a fault", (), lambda: None))
    assert kernel_code_command.main(["--out", str(tmp_path), "--no-candidates"]) == 1
    assert "FAILED: sm_90 a fault []: CompilationError: no" in capsys.readouterr().err
    assert "| a fault | CompilationError: no | - |" in (tmp_path / "kernel_code.md").read_text()


def test_it_may_not_fit(few: list[Case], tmp_path: Path) -> None:
    few.append(Case("tried", (), lambda: None))
    assert kernel_code_command.main(["--out", str(tmp_path), "--no-candidates"]) == 1
