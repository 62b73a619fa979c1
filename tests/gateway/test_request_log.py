"""One line for every request for pictures, whatever became of it, and no prompt in any."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.logs import logging_to
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.served import served

SPLIT = {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)}
SECRET = "a lighthouse that nobody may know of"


class Log:
    """All that is logged, as objects."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def lines(self, logger: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["logger"] == logger]

    async def request(self, n: int = 1) -> dict[str, Any]:
        """The last of the `n` requests' lines that there are to be."""
        await until(lambda: len(self.lines("gateway.requests")) >= n, "the line of the request")
        lines = self.lines("gateway.requests")
        assert len(lines) == n
        return lines[-1]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    with logging_to(log.stream, level="debug", form="json"):
        yield log


async def metrics_of(bench: Bench) -> str:
    text: str = await (await bench.client.get("/metrics")).text()
    return text


async def test_a_request_that_is_done(start: Start, log: Log) -> None:
    bench = await start(placement=SPLIT)
    response = await bench.post(n=2, size="64x128", num_inference_steps=3, slo_ms=60_000, priority="batch")
    assert response.status == 200
    line = await log.request()
    assert line["message"] == response.headers["X-Request-Id"]
    assert (line["status"], line["outcome"], line["model"]) == (200, "done", "toy")
    assert (line["n"], line["size"], line["steps"], line["priority"]) == (2, "64x128", 3, "batch")
    assert line["workers"] == {"text_encoder": ["cpu-0"], "denoise": ["cpu-1"], "decode": ["cpu-0"]}
    assert set(line["times_s"]) > {"queue", "encode", "diffuse", "decode", "finish", "total"}
    assert 0 < line["times_s"]["total"] <= line["total_s"]
    assert 50 < line["slack_s"] < 60
    assert line["exactness"] == "bitwise"
    assert not {"code", "key", "client_request_id", "retries", "prompt"} & line.keys()


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ({"user": "u-1"}, "u-1"),
        ({"user": "u-1", "safety_identifier": "s-1"}, "s-1"),
        ({"user": "u-1", "safety_identifier": ""}, "u-1"),
        ({"user": "u" * 200}, "u" * 128 + "..."),
        ({}, None),
    ],
)
async def test_whom_it_is_for_is_told(
    start: Start, log: Log, fields: dict[str, str], user: str | None
) -> None:
    bench = await start()
    assert (await bench.post(**fields)).status == 200
    assert (await log.request()).get("user") == user


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"{", "application/json", {"status": 400, "code": "invalid_json"}),
        (b"prompt=x", "text/plain", {"status": 415, "code": "wrong_content_type"}),
        (b'{"prompt": "x", "n": 11}', "application/json", {"status": 400, "param": "n"}),
        (
            json.dumps({"prompt": "x", "model": "no\n" * 99}).encode(),
            "application/json",
            {"status": 404, "code": "model_not_found", "model": ("no\n" * 99)[:128] + "..."},
        ),
    ],
)
async def test_what_is_refused_has_its_line_too(
    start: Start, log: Log, body: bytes, content_type: str, expected: dict[str, Any]
) -> None:
    bench = await start()
    headers = {"Content-Type": content_type}
    response = await bench.client.post("/v1/images/generations", data=body, headers=headers)
    line = await log.request()
    assert line["outcome"] == "rejected"
    assert expected.items() <= line.items()
    text = await metrics_of(bench)
    assert f'triptych_requests_total{{code="{line["code"]}",model="",outcome="rejected"}} 1.0' in text
    route = 'method="POST",route="/v1/images/generations"'
    assert f'triptych_http_requests_total{{{route},status="{response.status}"}} 1.0' in text
    assert "no\\n" not in text


async def test_a_worker_that_was_lost_is_told(start: Start, log: Log) -> None:
    bench = await start(("denoise", "die"))
    assert (await bench.post()).status == 200
    line = await log.request()
    assert line["retries"] == {"worker_lost": 1}
    assert 'triptych_job_retries_total{model="toy",reason="worker_lost"} 1.0' in await metrics_of(bench)


async def test_a_failure_and_a_full_queue(start: Start, log: Log) -> None:
    bench = await start(("denoise", "fail:internal"), ("denoise", "hold"), n_workers=1, max_queued_jobs=1)
    assert (await bench.post()).status == 500
    line = await log.request()
    assert (line["status"], line["outcome"], line["code"]) == (500, "failed", "stage_failed")
    held = bench.posted()
    await until(lambda: len(bench.fleet.tasks()) == 2)
    assert (await bench.post(n=2)).status == 429
    line = await log.request(2)
    assert (line["status"], line["outcome"], line["code"], line["n"]) == (429, "rejected", "queue_full", 2)
    bench.fleet.release.set()
    assert (await held).status == 200


async def test_a_client_that_leaves(start: Start, log: Log) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    posted = bench.posted()
    await until(lambda: bench.fleet.tasks())
    posted.cancel()
    line = await log.request()
    assert (line["status"], line["outcome"], line["code"]) == (499, "cancelled", "client_left")
    await asyncio.gather(posted, return_exceptions=True)


async def test_ids_of_clients_are_shown_and_change_nothing(start: Start, log: Log) -> None:
    bench = await start()
    headers = {"X-Client-Request-Id": "mine-1\xe9" + "x" * 200}
    body = {"prompt": "a hat"}
    response = await bench.client.post("/v1/images/generations", json=body, headers=headers)
    assert response.headers["X-Request-Id"].startswith("req-")
    shown = (await log.request())["client_request_id"]
    assert shown.startswith("mine-1?")
    assert shown.isascii()
    assert len(shown) == 131
    headers = {"X-Request-Id": "of-a-proxy"}
    response = await bench.client.post("/v1/images/generations", json=body, headers=headers)
    assert response.headers["X-Request-Id"].startswith("req-")
    assert (await log.request(2))["client_request_id"] == "of-a-proxy"


async def test_other_routes_are_told_at_debug_and_counted_by_route(start: Start, log: Log) -> None:
    bench = await start()
    for path in ("/v1/models/toy", "/v1/models/none\n", "/no/such/way"):
        await bench.client.get(path)
    await bench.client.request("PROPFIND", "/health")
    assert log.lines("gateway.requests") == []
    await until(lambda: len(log.lines("gateway.access")) == 4)
    assert {line["level"] for line in log.lines("gateway.access")} == {"debug"}
    text = await metrics_of(bench)
    for method, route, status in (
        ("GET", "/v1/models/{id}", 200),
        ("GET", "/v1/models/{id}", 404),
        ("GET", "other", 404),
        ("other", "other", 405),
    ):
        labels = f'method="{method}",route="{route}",status="{status}"'
        assert f"triptych_http_requests_total{{{labels}}} 1.0" in text
    assert "none" not in text
    assert "PROPFIND" not in text


async def ends_of_all_kinds(bench: Bench) -> None:
    for stage, fate in (("denoise", "fail:internal"), ("decode", "die"), ("denoise", "no_file")):
        bench.fleet.fates.add(stage, fate)
        await bench.post(prompt=SECRET, negative_prompt=SECRET)
    await bench.post(prompt=SECRET, model="none")
    await bench.post(prompt=SECRET, size="1x1")
    await bench.post(prompt=SECRET * 100)
    await bench.post(prompt=SECRET, unknown=SECRET)
    await bench.client.post("/v1/images/generations", data=f'{{"prompt": "{SECRET}"')
    bench.fleet.fates.add("denoise", "hold")
    posted = bench.posted(prompt=SECRET)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    posted.cancel()
    await until(lambda: not bench.engine.book.open_requests)


async def test_no_line_holds_a_prompt(start: Start, log: Log, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    bench = await start(journal=journal)
    await ends_of_all_kinds(bench)
    await log.request(9)
    assert "lighthouse" not in log.stream.getvalue()
    assert "lighthouse" not in await metrics_of(bench)
    bench.engine.accounts._journal.__exit__(None, None, None)
    assert "lighthouse" not in journal.read_text()


async def test_prompts_are_shown_cut_when_asked_for(start: Start, log: Log) -> None:
    bench = await start(log_prompts=True)
    await bench.post(prompt=SECRET)
    assert (await log.request())["prompt"] == SECRET
    await bench.post(prompt="lighthouse " * 50)
    assert len((await log.request(2))["prompt"]) == 203


@pytest.mark.process
async def test_every_line_of_the_process_is_an_object(tmp_path: Path) -> None:
    async with served(tmp_path, "--log-format", "json") as gateway, aiohttp.ClientSession() as session:
        await gateway.ready()
        body = {"prompt": "a hat", "user": 'x\n{"level": "error"}'}
        async with session.post(f"{gateway.url}/v1/images/generations", json=body) as response:
            assert response.status == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ended() == 0
    lines = [json.loads(line) for line in gateway.lines]
    (line,) = [line for line in lines if line["logger"] == "gateway.requests"]
    assert (line["message"], line["user"]) == (response.headers["X-Request-Id"], body["user"])
    assert lines[0]["message"].startswith("configuration: {")
