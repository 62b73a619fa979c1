"""`bench kernels`: rows that survive, goals as code, and every section run in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import kernels_command, render
from bench.kernels.goals import best_backend, n_tokens, ratio, verdicts
from bench.kernels.rows import Job, Row, read, run
from bench.kernels_table import NO_GPU
from tests.bench.test_batching import HOST


def row(section: str, name: str, **times_s: float) -> Row:
    return Row(section, name, {variant: [seconds] for variant, seconds in times_s.items()})


def test_a_command_that_was_cut_off_is_taken_up_again(tmp_path: Path) -> None:
    file, host, ran = tmp_path / "rows.jsonl", {"device": "one"}, []

    def measure(made: Row) -> None:
        ran.append(made.name)
        if made.name == "b":
            raise RuntimeError("no such shape")
        made.times_s["torch"] = [1.0]

    jobs = [Job("s", name, measure) for name in "abc"]
    first = run(jobs, file, host, 100.0)
    assert next(first).name == "a"
    with file.open("a") as lines:
        lines.write('{"section": "s", "na')
    assert [made.name for made in read(file)] == ["a"]
    file.write_text(file.read_text().splitlines()[0] + "\n")
    assert [made.failed for made in run(jobs, file, host, 100.0)] == [
        {"everything": "RuntimeError: no such shape"},
        {},
    ]
    assert list(run(jobs, file, host, 100.0)) == []
    assert ran == ["a", "b", "c"]
    # another device is another result
    assert len(list(run(jobs, file, {"device": "two"}, 100.0))) == 3


def test_a_section_that_took_its_time_begins_no_more_rows(tmp_path: Path) -> None:
    now_s = [0.0]

    def measure(made: Row) -> None:
        now_s[0] += 6

    jobs = [Job("s", "a", measure), Job("s", "b", measure), Job("s", "c", measure), Job("t", "d", measure)]
    made = run(jobs, tmp_path / "rows.jsonl", {}, 10.0, clock=lambda: now_s[0])
    assert [each.name for each in made] == ["a", "b", "d"]


def test_goals() -> None:
    assert {verdict.met for verdict in verdicts([])} == {None}
    long = Row(
        "attention", "long", {"torch": [2.0, 3.0, 2.0], "kernel": [2.0], "flash": [1.6], "math": [9.0]}
    )
    long.n_flop, long.n_bytes = 4.0 * 5000**2 * 64, 2.0 * 2 * 10_000 * 64
    assert n_tokens(long) == 5000
    assert best_backend(long) == "flash"
    assert ratio(long, "kernel", "flash") == pytest.approx(0.8)
    assert ratio(long, "kernel", "cudnn") is None
    short = row("attention", "short", torch=2.0, kernel=1.0, flash=0.1)
    decode = row("decode", "2048 px, compiled", diffusers=3.4, kernels=1.0, compiled=1.2)
    decode.peak_bytes = {"diffusers": 5, "kernels": 2}
    decode.quality = {"diffusers": 40.0, "kernels": 39.4}
    met = {verdict.goal: verdict.met for verdict in verdicts([long, short, decode])}
    assert list(met.values()) == [True, False, True, False, True, False]
    long.times_s["kernel"] = [2.1]
    assert not verdicts([long, short])[0].met


def test_the_table_of_a_machine_without_a_gpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels_command.main(["--out", str(tmp_path)]) == 0
    assert NO_GPU in capsys.readouterr().out
    assert NO_GPU in (tmp_path / "kernels.md").read_text()


def test_rows_are_rendered(tmp_path: Path) -> None:
    copy = Row("ceilings", "copy", {"copy": [1.0]}, n_bytes=3e12, host={"device": "a GPU"})
    product = Row("ceilings", "matmul", {"matmul": [1.0]}, n_flop=8e14)
    fast = Row(
        "attention", "Flux", {"torch": [4.0], "kernel": [2.0]}, {"cudnn": "no"}, n_flop=8e14, n_bytes=1.0
    )
    fast.quality, fast.quality_unit = {"kernel": 0.001}, "apart"
    result = {
        "benchmark": "kernels",
        "question": "How?",
        "commit": "abc",
        "rows": [vars(each) for each in (copy, product, fast)],
    }
    file = tmp_path / "kernels.json"
    file.write_text(json.dumps(result), "utf-8")
    text = render.rendered(file)
    assert "| Flux | kernel | 2e+03 | 2e+03 | 2e+03 | 2.00 | 0.50 | 0.001 apart |" in text
    assert "| Flux | cudnn |  |  |  |  |  | no |" in text
    assert "3.00 TB/s copied, 800 TFLOP/s" in text
    assert "| attention is never slower than torch's default | met | 2.00 at worst (Flux), 1 rows |" in text
    assert "Measured on: device a GPU." in text
    on_a_cpu = {**HOST, "benchmark": "kernels_cpu", "question": "What?", "model": "tiny", "n": 1}
    file.write_text(json.dumps({**on_a_cpu, "rows": [vars(row("cpu", "64 px", diffusers=2.0))]}), "utf-8")
    assert "| 64 px | diffusers | 2e+03 |" in render.rendered(file)


def test_wrong_flags() -> None:
    assert kernels_command.main(["--device", "cpu"]) == 2
    assert kernels_command.main(["--rounds", "0"]) == 2
