"""Requests from HTTP to picture over a scripted fleet."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import ClientResponse

from tests.gateway.conftest import Start, until
from tests.gateway.toy import STAGES, picture_of
from wire.to_worker import LoadStages, RunTask


async def error_of(response: ClientResponse) -> dict[str, Any]:
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


async def test_a_picture_comes_back_with_its_seed(start: Start) -> None:
    bench = await start()
    response = await bench.post(seed=7)
    assert response.status == 200
    reply = await response.json()
    assert [(base64.b64decode(d["b64_json"]), d["seed"]) for d in reply["data"]] == [(picture_of(7), 7)]
    assert reply["size"] == "128x128"
    assert (reply["output_format"], reply["background"]) == ("png", "opaque")
    assert reply["quality"] == "medium"
    assert "usage" not in reply


@pytest.mark.parametrize(
    ("fields", "quality"),
    [({"quality": "high"}, "high"), ({"quality": "auto"}, "medium"), ({"num_inference_steps": 3}, None)],
)
async def test_quality_is_told_unless_the_steps_were_named(
    start: Start, fields: dict[str, Any], quality: str | None
) -> None:
    bench = await start()
    assert (await (await bench.post(**fields)).json()).get("quality") == quality


async def test_requests_at_the_same_time_each_get_their_own_size_and_seeds(start: Start) -> None:
    bench = await start(n_workers=3)
    asked: list[dict[str, Any]] = [
        {"size": size, "seed": 100 * i, "n": 1 + i % 4}
        for i, size in enumerate(["64x64", "256x64", "64x256", "auto", "128x64", "256x256"] * 3)
    ]
    posted = [bench.posted(**fields) for fields in asked]
    for fields, each in zip(asked, posted, strict=True):
        reply = await (await each).json()
        size = "128x128" if fields["size"] == "auto" else fields["size"]
        seeds = list(range(fields["seed"], fields["seed"] + fields["n"]))
        assert reply["size"] == size
        assert [item["seed"] for item in reply["data"]] == seeds
        pictures = [base64.b64decode(item["b64_json"]) for item in reply["data"]]
        assert pictures == [picture_of(seed, size) for seed in seeds]


async def test_the_pictures_of_one_request_are_spread_over_the_workers(start: Start) -> None:
    bench = await start(*(("denoise", "hold"),) * 3, n_workers=3, placement="colocated")
    posted = bench.posted(n=3)
    await until(lambda: len(bench.fleet.tasks()) == 3, "all three at a time")
    busy = [
        any(isinstance(m, RunTask) and "warm" not in m.task_id for m in h) for h in bench.fleet.heard.values()
    ]
    assert busy == [True] * 3
    bench.fleet.release.set()
    assert (await posted).status == 200


async def test_n_pictures_have_consecutive_seeds_in_order(start: Start) -> None:
    bench = await start()
    reply = await (await bench.post(seed=40, n=4)).json()
    assert [d["seed"] for d in reply["data"]] == [40, 41, 42, 43]
    assert [base64.b64decode(d["b64_json"]) for d in reply["data"]] == [picture_of(40 + i) for i in range(4)]


async def test_headers_tell_times_and_the_request(start: Start) -> None:
    bench = await start()
    response = await bench.post()
    timing = response.headers["Server-Timing"]
    parts = dict(re.findall(r"(\w+);dur=([\d.]+)", timing))
    assert {"queue", "encode", "diffuse", "decode", "total"} <= parts.keys()
    assert float(parts["total"]) == pytest.approx(
        sum(map(float, parts.values())) - float(parts["total"]), abs=1
    )
    assert response.headers["X-Request-Id"].startswith("req-")


async def test_split_stages_hand_over_and_free_their_files(start: Start) -> None:
    bench = await start(placement={"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)})
    kept = bench.n_files
    assert (await bench.post(n=3)).status == 200
    by_worker = {
        worker: {m.stages for m in heard if isinstance(m, RunTask) and "warm" not in m.task_id}
        for worker, heard in bench.fleet.heard.items()
    }
    assert by_worker == {"cpu-0": {("text_encoder",), ("decode",)}, "cpu-1": {("denoise",)}}
    # what stays are the warm-ups' inputs
    assert bench.n_files == kept == 2


async def test_every_stage_is_warmed_on_every_worker_that_holds_it(start: Start) -> None:
    bench = await start(placement="colocated")
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    for heard in bench.fleet.heard.values():
        warmed = [m.stages[0] for m in heard if isinstance(m, RunTask)]
        assert warmed == list(STAGES)
        assert [m.generation.num_inference_steps for m in heard if isinstance(m, RunTask)] == [2, 2, 2]


async def test_the_first_placement_waits_for_all_workers(start: Start) -> None:
    bench = await start(n_workers=3)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    for heard in bench.fleet.heard.values():
        assert len([m for m in heard if isinstance(m, LoadStages)]) == 1


async def test_the_openai_client_is_served(start: Start) -> None:
    bench = await start()
    async with openai.AsyncOpenAI(base_url=str(bench.client.make_url("/v1")), api_key="EMPTY") as client:
        reply = await client.images.generate(
            model="toy", prompt="a hat", n=2, size="auto", extra_body={"seed": 3, "num_inference_steps": 5}
        )
        assert [base64.b64decode(image.b64_json or "") for image in reply.data or []] == [
            picture_of(3),
            picture_of(4),
        ]
        assert [model.id for model in (await client.models.list()).data] == ["toy"]
        assert (await client.models.retrieve("toy")).owned_by == "triptych"
        with pytest.raises(openai.NotFoundError) as missing:
            await client.images.generate(model="other", prompt="a hat")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.images.generate(model="toy", prompt="a hat", n=99)
        assert refused.value.param == "n"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/images/generations", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/images/generations", 405, "method_not_allowed"),
        ("TRACE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/other/one", 404, "model_not_found"),
    ],
)
async def test_wrong_routes_answer_in_the_same_shape(
    start: Start, method: str, path: str, status: int, code: str
) -> None:
    bench = await start(wait_ready=False)
    response = await bench.client.request(method, path)
    assert response.status == status
    assert (await error_of(response))["code"] == code
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b"prompt=x", "application/x-www-form-urlencoded", 415, "wrong_content_type"),
        (b'{"prompt": "x"}', "text/plain", 415, "wrong_content_type"),
        (b" " * 3000, "application/json", 413, "body_too_large"),
    ],
)
async def test_wrong_bodies_answer_in_the_same_shape(
    start: Start, body: bytes, content_type: str, status: int, code: str
) -> None:
    bench = await start(wait_ready=False, max_body_bytes=2000)
    response = await bench.client.post(
        "/v1/images/generations", data=body, headers={"Content-Type": content_type}
    )
    assert response.status == status
    assert (await error_of(response))["code"] == code


async def test_before_it_is_ready(start: Start) -> None:
    bench = await start(("warm:decode", "hold"), n_workers=1, wait_ready=False)
    assert (await bench.client.get("/health")).status == 200
    await until(lambda: len(bench.engine.fleet["cpu-0"].resident) == 2)
    response = await bench.client.get("/ready")
    assert response.status == 503
    assert "decode" in (await error_of(response))["message"]
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (503, "not_ready")
    assert int(response.headers["Retry-After"]) >= 1
    bench.fleet.release.set()
    await until(bench.engine.ready.is_set)
    assert (await bench.client.get("/ready")).status == 200
    assert (await bench.post()).status == 200


async def test_a_full_queue_is_429_and_its_gauges_are_right_meanwhile(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1, max_queued_jobs=2)
    first = bench.posted()
    await until(lambda: bench.fleet.tasks())
    waiting = bench.posted(n=2)
    await until(lambda: bench.engine.book.n_waiting() == 2)
    response = await bench.post()
    assert (response.status, (await error_of(response))["code"]) == (429, "queue_full")
    assert int(response.headers["Retry-After"]) >= 1
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_queue_jobs{model="toy",stage="text_encoder"} 2.0' in text
    assert 'triptych_in_flight_jobs{model="toy",stage="denoise"} 1.0' in text
    bench.fleet.release.set()
    assert (await first).status == (await waiting).status == 200
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_queue_jobs{model="toy",stage="text_encoder"} 0.0' in text
    assert 'triptych_requests_total{code="",model="toy",outcome="done"} 2.0' in text
    assert 'triptych_requests_total{code="queue_full",model="toy",outcome="rejected"} 1.0' in text
    assert 'triptych_stage_seconds_count{model="toy",stage="denoise"} 3.0' in text
    assert 'triptych_worker_state{state="up",worker="cpu-0"} 1.0' in text
    assert re.search(r"triptych_handoff_bytes \d", text)


async def test_the_clients_deadline_goes_first(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1)
    first = bench.posted(seed=1)
    await until(lambda: bench.fleet.tasks())
    late, soon = bench.posted(seed=2, slo_ms=60_000), bench.posted(seed=3, slo_ms=1_000)
    await until(lambda: bench.engine.book.n_waiting() == 2)
    bench.fleet.release.set()
    for posted in (first, late, soon):
        assert (await posted).status == 200
    assert [task.generation.seed for task in bench.fleet.tasks()] == [1, 3, 2]


async def test_the_journal_tells_it_all_without_the_prompt(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    bench = await start(journal=file)
    assert (await bench.post(prompt="a secret", n=2, slo_ms=5000)).status == 200
    assert (await bench.post(n=10, seed=1, num_inference_steps=2)).status == 200
    bench.engine.accounts._journal.__exit__(None, None, None)
    text = file.read_text()
    assert "secret" not in text
    events = [json.loads(line) for line in text.splitlines()]
    kinds = {event["event"] for event in events}
    assert kinds == {"stage", "effect", "request", "worker", "model", "load"}
    (asked,) = [event for event in events if event["event"] == "request" and event["n"] == 2]
    assert asked["outcome"] == "done"
    assert (asked["status"], asked["deadline_s"], asked["deadline_met"]) == (200, 5.0, True)
    assert (asked["size"], asked["steps"]) == ("128x128", 4)
    stages = [e for e in events if e["event"] == "stage" and e["request"] == asked["request"]]
    assert sorted(e["stage"] for e in stages) == sorted(STAGES * 2)
    assert {(e["stage"], e["kind"], e["steps"]) for e in stages} == {
        ("text_encoder", "encode", 1),
        ("denoise", "diffuse", 4),
        ("decode", "decode", 1),
    }
    assert all(e["ended_at_s"] > e["started_at_s"] for e in stages)
    assert {e["effect"] for e in events if e["event"] == "effect"} == {"load", "run"}
    assert [e["state"] for e in events if e["event"] == "worker"][-2:] == ["up", "up"]


async def test_a_body_that_cannot_be_decoded(start: Start) -> None:
    bench = await start(wait_ready=False)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = await bench.client.post("/v1/images/generations", data=b"nonsense", headers=headers)
    assert (response.status, (await error_of(response))["code"]) == (400, "invalid_body")
