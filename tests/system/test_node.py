"""Real processes: a gateway and its workers over real sockets and HTTP, on a tiny random model."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import pytest_asyncio

from bench.catalogue_file import catalogue_file
from bench.node import CHECKOUT, GATEWAY, Node
from pipelines.catalogue import Model
from tests.system.nodes import cpu_node
from tests.system.pictures import expected_picture, picture_of, post
from worker.resident import ResidentModel

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

SPLIT = "cpu-0=text_encoder,cpu-1=denoise,cpu-2=decode"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def together(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """Two workers, both with every stage."""
    folder = tmp_path_factory.mktemp("together")
    async with cpu_node(folder, "tiny", 2, "--catalogue", str(catalogue)) as node:
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apart(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """Three workers with one stage each."""
    folder = tmp_path_factory.mktemp("apart")
    async with cpu_node(folder, "tiny", 3, "--catalogue", str(catalogue), "--placement", SPLIT) as node:
        yield node


async def test_the_openai_client(together: Node, whole: ResidentModel) -> None:
    body = {"prompt": "a cat", "num_inference_steps": 4, "seed": 21}
    async with openai.AsyncOpenAI(
        base_url=f"{together.base_url}/v1", api_key="none", max_retries=0
    ) as client:
        assert [found.id async for found in client.models.list()] == ["tiny"]
        reply = await client.images.generate(
            model="tiny",
            prompt="a cat",
            size="32x32",
            n=2,
            response_format="b64_json",
            extra_body={"seed": 21, "num_inference_steps": 4, "exactness": "bitwise"},
        )
        assert reply.data is not None
        assert (reply.model_extra or {})["exactness"] == "bitwise"
        pictures = [base64.b64decode(picture.b64_json or "") for picture in reply.data]
        assert pictures == [expected_picture(whole, body), expected_picture(whole, {**body, "seed": 22})]
        with pytest.raises(openai.BadRequestError) as refused:
            await client.images.generate(model="tiny", prompt="a cat", size=cast("Any", "33x32"))
        assert refused.value.param == "size"
        with pytest.raises(openai.NotFoundError):
            await client.images.generate(model="no-such", prompt="a cat")


async def test_split_and_together_are_the_whole_pipeline(
    together: Node, apart: Node, whole: ResidentModel
) -> None:
    body = {
        "prompt": "a dog",
        "negative_prompt": "a cat",
        "num_inference_steps": 6,
        "guidance_scale": 3.0,
        "seed": 4,
    }
    expected = expected_picture(whole, body)
    for node in (together, apart):
        status, reply, headers = await post(node, **body)
        assert status == 200, reply
        assert picture_of(reply) == expected
        for part in ("queue", "encode", "diffuse", "decode", "total"):
            assert f"{part};dur=" in headers["Server-Timing"]
    workers = {
        record["stage"]: record["worker"]
        for record in apart.read_journal()
        if record["event"] == "stage" and record["job"]
    }
    assert workers == {"text_encoder": "cpu-0", "denoise": "cpu-1", "decode": "cpu-2"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"steps": 3}, "steps"),
        ({"n": 11}, "n"),
        ({"size": "32x31"}, "size"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": 1.0, "negative_prompt": "x"}, "negative_prompt"),
        ({"seed": True}, "seed"),
        ({"slo_ms": -1}, "slo_ms"),
        ({"exactness": "exact"}, "exactness"),
        ({"lora": {"name": "no-such"}}, "lora"),
    ],
)
async def test_bad_requests_name_the_field(together: Node, change: dict[str, Any], param: str) -> None:
    body = {"prompt": "a cat", **change}
    status, reply, _ = await post(together, **body)
    assert (status, reply["error"]["param"]) == (400, param)
    assert reply["error"]["type"] == "invalid_request_error"


async def test_many_at_once_are_each_answered_with_their_own(together: Node, whole: ResidentModel) -> None:
    bodies = [
        {"prompt": f"a {thing}", "num_inference_steps": 2 + index % 3, "seed": index}
        for index, thing in enumerate(("cat", "dog", "fox", "owl", "bee", "ant", "elk", "yak"))
    ]
    replies = await asyncio.gather(*(post(together, **body) for body in bodies))
    for body, (status, reply, _) in zip(bodies, replies, strict=True):
        assert status == 200, reply
        assert picture_of(reply) == expected_picture(whole, body)


@pytest.mark.parametrize(
    ("worker", "stage"), [("cpu-0", "text_encoder"), ("cpu-1", "denoise"), ("cpu-2", "decode")]
)
async def test_a_worker_killed_in_each_stage(
    apart: Node, whole: ResidentModel, worker: str, stage: str
) -> None:
    """The task is on that worker, unfinished, when it is killed; the request still answers, rightly."""
    await apart.wait_ready()
    body = {"prompt": "an owl", "num_inference_steps": 8, "seed": 17}
    pid = apart.worker_pids()[worker]
    # stopped first, so that the task cannot end before the kill
    os.kill(pid, signal.SIGSTOP)
    request = asyncio.create_task(post(apart, **body))
    await _until_running(apart, stage, 1)
    os.kill(pid, signal.SIGKILL)
    status, reply, _ = await request
    assert status == 200, reply
    assert picture_of(reply) == expected_picture(whole, body)
    assert apart.worker_pids()[worker] != pid
    assert await apart.metric("triptych_worker_restarts_total", worker=worker) >= 1.0


async def test_a_worker_killed_between_two_steps(apart: Node, whole: ResidentModel) -> None:
    await apart.wait_ready()
    body = {"prompt": "an owl", "num_inference_steps": 200, "seed": 18}
    request = asyncio.create_task(post(apart, **body))
    await _until_running(apart, "denoise", 1)
    os.kill(apart.worker_pids()["cpu-1"], signal.SIGKILL)
    status, reply, _ = await request
    assert status == 200, reply
    assert picture_of(reply) == expected_picture(whole, body)


async def test_a_loop_goes_on_from_its_checkpoint(apart: Node, whole: ResidentModel) -> None:
    """A worker killed far into the loop costs the steps since its last checkpoint, and not one pixel."""
    await apart.wait_ready()
    body = {"prompt": "a heron", "num_inference_steps": 200, "seed": 19}
    request = asyncio.create_task(post(apart, **body))
    await _until_running(apart, "denoise", 1)
    # what the loop began with is there already; what comes is its checkpoint
    held_bytes = await _bytes_of_jobs(apart)

    async def has_checkpoint() -> bool:
        return await _bytes_of_jobs(apart) > held_bytes

    await apart.wait_until(has_checkpoint, "a checkpoint")
    os.kill(apart.worker_pids()["cpu-1"], signal.SIGKILL)
    status, reply, headers = await request
    assert status == 200, reply
    assert picture_of(reply) == expected_picture(whole, body)
    (loop,) = (
        r
        for r in apart.read_journal()
        if r["event"] == "stage" and r["stage"] == "denoise" and r["request"] == headers["X-Request-Id"]
    )
    from_step, steps = cast("int", loop["from_step"]), cast("int", loop["steps"])
    assert from_step > 0
    assert from_step % 8 == 0
    assert from_step + steps == 200


async def test_a_repeat_prompt_is_not_encoded_again(together: Node, whole: ResidentModel) -> None:
    body = {"prompt": "a stork", "num_inference_steps": 4, "seed": 20}
    hits = await together.metric("triptych_encode_cache_hits_total")
    first_status, first, _ = await post(together, **body)
    status, again, headers = await post(together, **body)
    assert first_status == status == 200
    assert picture_of(first) == picture_of(again) == expected_picture(whole, body)
    assert first["exactness"] == again["exactness"] == "bitwise"
    assert await together.metric("triptych_encode_cache_hits_total") == hits + 1
    assert await together.metric("triptych_encode_cache_bytes") > 0
    stages = [
        r["stage"]
        for r in together.read_journal()
        if r["event"] == "stage" and r["request"] == headers["X-Request-Id"]
    ]
    assert stages == ["denoise", "decode"]
    # another seed begins with the same file
    other = {**body, "seed": 23}
    assert picture_of((await post(together, **other))[1]) == expected_picture(whole, other)


async def test_a_client_that_leaves_stops_its_work(apart: Node) -> None:
    await apart.wait_ready()

    async def n_cancelled() -> float:
        return await apart.metric("triptych_requests_total", outcome="cancelled")

    before = await n_cancelled()
    held_bytes = await _bytes_of_jobs(apart)
    request = asyncio.create_task(post(apart, prompt="a bee", num_inference_steps=200, seed=1))
    await _until_running(apart, "denoise", 1)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)

    async def is_cancelled() -> bool:
        return await n_cancelled() == before + 1

    await apart.wait_until(is_cancelled, "the cancel")
    await _until_running(apart, "denoise", 0)
    # it did not run to its end: no denoise of that request is in the journal
    status, _, _ = await post(apart, prompt="a bee", num_inference_steps=2, seed=1)
    assert status == 200
    cancelled = {
        r["request"] for r in apart.read_journal() if r["event"] == "request" and r["outcome"] == "cancelled"
    }
    ended = {r["request"] for r in apart.read_journal() if r["event"] == "stage" and r["stage"] == "denoise"}
    assert cancelled
    assert not cancelled & ended

    async def is_freed() -> bool:
        return await _bytes_of_jobs(apart) == held_bytes

    await apart.wait_until(is_freed, "freed handoffs")


async def _bytes_of_jobs(node: Node) -> float:
    """Bytes in the store, less what is kept for later requests on purpose."""
    return await node.metric("triptych_handoff_bytes") - await node.metric("triptych_encode_cache_bytes")


async def _until_running(node: Node, stage: str, n_jobs: int) -> None:
    async def is_so() -> bool:
        return await node.metric("triptych_in_flight_jobs", stage=stage) == n_jobs

    await node.wait_until(is_so, f"{n_jobs} jobs in {stage}")


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_stop_everything(catalogue: Path, tmp_path: Path, number: signal.Signals) -> None:
    async with cpu_node(tmp_path, "tiny", 1, "--catalogue", str(catalogue)) as node:
        assert len(node.worker_pids()) == 1
        second = await asyncio.create_subprocess_exec(
            *GATEWAY, "--port", str(node.port), "--cpu", "1", cwd=CHECKOUT, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(60):
            _, said = await second.communicate()
        assert second.returncode not in (0, None)
        assert str(node.port) in said.decode()
        assert "Traceback" not in said.decode()
        assert await node.is_ready()
        # that nothing is left is part of it
        assert await node.stop(number) == []


async def test_workers_die_with_a_killed_gateway(catalogue: Path, tmp_path: Path) -> None:
    async with cpu_node(tmp_path, "tiny", 1, "--catalogue", str(catalogue)) as node:
        pids = node.worker_pids().values()
        assert pids
        node.kill()
        await node.ended()
        async with asyncio.timeout(30):
            while any(_lives(pid) for pid in pids):  # noqa: ASYNC110 (no event to await)
                await asyncio.sleep(0.02)
        problems = await node.stop()
        # its folder is for the next gateway to remove
        assert [problem for problem in problems if "folder" not in problem] == [
            "the gateway ended with exit code -9"
        ]


async def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path: Path) -> None:
    broken = catalogue_file(tmp_path, "broken", Model(source=str(tmp_path / "nowhere"), family="sd3"))
    node = cpu_node(tmp_path, "broken", 1, "--catalogue", str(broken))
    await node.start()
    async with asyncio.timeout(60):
        assert await node.ended() == 1
    assert await node.stop() == ["the gateway ended with exit code 1"]
    assert "nowhere" in node.read_log()
    assert "Traceback" not in node.read_log()
