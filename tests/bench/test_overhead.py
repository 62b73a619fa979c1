from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import render
from bench.journal import Journal, read_journal
from bench.overhead import Plan, Refused, Repeat, measure, report
from bench.overhead_command import parser
from bench.overhead_parts import LOOP_PARTS, PARTS, request_parts_ms
from pipelines.catalogue import load_catalogue
from tests.bench.fake import FakeNode, png
from wire.generation import Generation


@dataclass(frozen=True)
class Looped:
    seconds: float
    parts_ms: dict[str, float]
    picture: bytes


@pytest.fixture
def plan() -> Plan:
    model = load_catalogue()["triptych-emoji"]
    return Plan(name="triptych-emoji", model=model, n_requests=3, n_repeats=2, steps=4, seed=50)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FakeNode]:
    fake = FakeNode(tmp_path / "journal.jsonl", workers=("cpu-0",))
    fake.started()
    app = web.Application()
    app.router.add_post("/v1/images/generations", fake.generate)
    server = TestServer(app)
    await server.start_server()
    fake.base_url = str(server.make_url("/"))
    yield fake
    await server.close()


class FakeLoop:
    def __init__(self, salt: str = "") -> None:
        self._salt = salt
        self.n_runs = 0

    async def __call__(self, generations: list[Generation]) -> Sequence[Looped]:
        self.n_runs += 1
        return [
            Looped(
                seconds=0.5,
                parts_ms={"pipeline": 490.0, "PNG": 9.0, "base64": 1.0},
                picture=png(f"{self._salt}{g.prompt}{g.seed}{g.num_inference_steps}"),
            )
            for g in generations
        ]


async def measured(plan: Plan, node: FakeNode) -> list[Repeat]:
    return await measure(plan, node.base_url, FakeLoop(), lambda line: None)


async def test_measures_in_turns(plan: Plan, node: FakeNode) -> None:
    said: list[str] = []
    run_loop = FakeLoop()
    repeats = await measure(plan, node.base_url, run_loop, said.append)
    assert [(len(r.served), len(r.looped)) for r in repeats] == [(3, 3), (3, 3)]
    # one warm-up of either side
    assert (node.n_requests, run_loop.n_runs) == (9, 3)
    assert [line.split(":")[0] for line in said] == ["repeat 1/2", "repeat 2/2"]


async def test_refuses_to_report_different_pictures(plan: Plan, node: FakeNode) -> None:
    with pytest.raises(Refused, match=r"pictures of 'fox', seed 50 differ"):
        await measure(plan, node.base_url, FakeLoop("other"), lambda line: None)


async def test_refuses_when_a_request_fails(plan: Plan, node: FakeNode) -> None:
    node.fail_at = 5
    with pytest.raises(Refused, match="request 2 failed: status 500: denoise failed"):
        await measured(plan, node)


async def test_parts_add_up_to_the_latency(plan: Plan, node: FakeNode) -> None:
    repeats = await measured(plan, node)
    journal = read_journal(node.journal)
    for result in repeats[0].served:
        parts = request_parts_ms(result, journal)
        assert tuple(parts) == PARTS
        assert sum(parts.values()) == pytest.approx(1000 * result.latency_s)
        assert parts["diffuse"] == pytest.approx(4.0)
        assert parts["between stages"] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(LookupError, match="no request"):
        request_parts_ms(repeats[0].served[0], read_journal_of_nothing(node.journal.with_name("empty")))


async def test_report_and_table(plan: Plan, node: FakeNode, tmp_path: Path) -> None:
    repeats = await measured(plan, node)
    result = report(plan, repeats, read_journal(node.journal))
    assert result["n_pictures_compared"] == 6
    assert result["throughput"]["loop"]["p50"] == pytest.approx(2.0)
    served_s = sum(r.latency_s for r in repeats[0].served)
    assert result["raw"]["ratio"][0] == pytest.approx(1.5 / served_s, rel=1e-3)
    assert set(result["parts"]["loop"]) == set(LOOP_PARTS)
    around = {
        "commit": "abc",
        "device": "CPU",
        "cpu": "a processor",
        "cores": 2,
        "threads": 2,
        "omp_wait_policy": "default",
        "load_average": {"before": 0.1, "after": 0.2},
        "versions": {"torch": "2"},
    }
    raw = tmp_path / "overhead.json"
    raw.write_text(json.dumps(around | result))
    assert render.main([str(raw)]) == 0
    table = (tmp_path / "overhead.md").read_text()
    assert "| loop, pictures per second | 2.000 | 2.000 | 2.000 |" in table
    assert "| PNG | 9.00 | 9.00 |" in table
    assert "The goal of at least 0.95 is met." in table
    assert "Commit abc." in table


def test_render_refuses_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, text in enumerate(("{}", "[]", "{", '{"benchmark": "other"}')):
        file = tmp_path / f"{index}.json"
        file.write_text(text)
        assert render.main([str(file)]) == 1
        assert capsys.readouterr().err.startswith(f"render: {file}")
        assert not file.with_suffix(".md").exists()


def test_committed_tables_are_what_their_results_render_to() -> None:
    for raw in sorted(render.RESULTS.glob("*.json")):
        committed = raw.with_suffix(".md").read_text("utf-8")
        assert render.rendered(raw) == committed


@pytest.mark.parametrize("flags", [["--requests", "0"], ["--repeats", "-1"], ["--steps", "x"]])
def test_flags_are_checked(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(flags)
    assert flags[0] in capsys.readouterr().err


def read_journal_of_nothing(file: Path) -> Journal:
    file.write_text("")
    return read_journal(file)
