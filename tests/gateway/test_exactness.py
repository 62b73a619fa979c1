"""What a request is promised, and what its reply says was kept."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from pipelines.tiles import decode_peak_bytes
from tests.gateway.conftest import MODEL, Start, until
from tests.gateway.test_recovery import SPLIT, assert_clean
from tests.gateway.test_serving import error_of
from wire.to_worker import RunTask


async def test_the_promise_reaches_the_workers_and_the_reply_says_what_was_kept(start: Start) -> None:
    bench = await start()
    for asked in ("bitwise", "numeric"):
        response = await bench.post(exactness=asked)
        assert (await response.json())["exactness"] == "bitwise"
        assert bench.fleet.tasks()[-1].generation.exactness == asked


@pytest.mark.parametrize("stage", ["text_encoder", "denoise", "decode"])
async def test_the_weakest_of_all_tasks_and_pictures_is_told(
    start: Start, stage: str, tmp_path: Path
) -> None:
    file = tmp_path / "journal.jsonl"
    bench = await start((stage, "numeric"), placement=SPLIT, journal=file)
    assert (await (await bench.post(n=3)).json())["exactness"] == "numeric"
    assert (await (await bench.post(n=3)).json())["exactness"] == "bitwise"
    bench.engine.accounts._journal.__exit__(None, None, None)
    requests = [json.loads(line) for line in file.read_text().splitlines() if '"event":"request"' in line]
    assert [request["exactness"] for request in requests] == ["numeric", "bitwise"]


async def test_a_worker_that_keeps_less_than_asked_fails_the_request(start: Start) -> None:
    bench = await start(("denoise", "numeric"), placement=SPLIT)
    response = await bench.post(exactness="bitwise")
    error = await error_of(response)
    assert (response.status, error["code"]) == (500, "stage_failed")
    assert "bitwise was asked for" in error["message"]
    await assert_clean(bench)


async def test_what_goes_on_from_a_checkpoint_is_no_better_than_it(start: Start) -> None:
    bench = await start(("denoise", "numeric+die"), checkpoint_every=2)
    assert (await (await bench.post()).json())["exactness"] == "numeric"
    assert bench.fleet.tasks()[-1].checkpoint is not None
    await assert_clean(bench)


async def test_a_checkpoint_that_kept_too_little_is_not_used(start: Start) -> None:
    bench = await start(("denoise", "numeric+die"), checkpoint_every=2)
    assert (await (await bench.post(exactness="bitwise")).json())["exactness"] == "bitwise"
    assert bench.fleet.tasks()[-1].checkpoint is None
    await assert_clean(bench)


async def test_the_openai_client_takes_the_fields_and_the_reply(start: Start) -> None:
    bench = await start()
    async with openai.AsyncOpenAI(base_url=str(bench.client.make_url("/v1")), api_key="EMPTY") as client:
        reply = await client.images.generate(prompt="a hat", extra_body={"exactness": "bitwise"})
        assert (reply.model_extra or {})["exactness"] == "bitwise"
        reply = await client.images.generate(prompt="a hat", extra_body={"exactness": "approximate"})
        # it consented to less, and none was needed
        assert (reply.model_extra or {})["exactness"] == "bitwise"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.images.generate(prompt="a hat", extra_body={"lora": "no_such"})
        assert refused.value.param == "lora"
        (model,) = (await client.models.list()).data
        assert (model.model_extra or {})["adapters"] == []


async def test_a_decode_over_the_bound_is_tiled_and_so_is_the_warm_up(start: Start) -> None:
    fits_bytes = decode_peak_bytes(MODEL, 64, 64, 1, on_cpu=True)
    bench = await start(placement="colocated", decode_memory_bytes=fits_bytes)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    for size in ("64x64", "128x64"):
        assert (await bench.post(size=size, exactness="bitwise")).status == 200
    assert [task.generation.tiled_decode for task in bench.fleet.tasks()] == [False, True]
    warm_ups = [m for heard in bench.fleet.heard.values() for m in heard if isinstance(m, RunTask)]
    assert {m.generation.tiled_decode for m in warm_ups if m.task_id.startswith("warm-up")} == {True}
