"""The benchmark of decisions: it drives a fleet, and tells when a promise is not kept."""

import json
from pathlib import Path

import pytest

from bench import decisions_command
from bench.decisions import Case, measure


def test_a_row_has_every_figure() -> None:
    row = measure(Case(8, 16, 1.0, 10.0), "triptych", 40, seed=0)
    assert 0.0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] <= row["p99_ms"] <= row["worst_ms"]
    assert (row["workers"], row["jobs"], row["n"]) == (8, 16, 40)


@pytest.mark.parametrize(("promised_ms", "code"), [(1e6, 0), (1e-6, 1)])
def test_the_exit_code_says_whether_it_is_as_fast_as_promised(
    promised_ms: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions_command, "CASES", (Case(2, 4, promised_ms, promised_ms),))
    assert decisions_command.main(["--decisions", "10", "--out", str(tmp_path), "--policy", "fair"]) == code
    raw = json.loads((tmp_path / "decisions.json").read_text())
    assert raw["rows"][0]["n"] == 10
    assert "policy fair" in (tmp_path / "decisions.md").read_text()


def test_nothing_is_measured_with_a_wrong_flag() -> None:
    assert decisions_command.main(["--decisions", "0"]) == 2
