"""Real workers that hang, fail, die and lie where a prompt tells them to: the request ends rightly, and the
node serves the next one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bench.node import Node
from tests.system.nodes import cpu_node, lying
from tests.system.pictures import STAGES, expected_picture, picture_of, post
from worker.resident import ResidentModel

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

FLAGS = ("--heartbeat-interval-s", "0.2", "--heartbeat-timeout-s", "10", "--stall-timeout-s", "3")
STEPS = 6


@pytest.fixture(scope="module")
def lies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a lie that is told once waits for its worker."""
    return tmp_path_factory.mktemp("lies")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(catalogue: Path, lies: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """Two workers that hold everything. Leaving it checks that nothing is left."""
    flags = ("--catalogue", str(catalogue), "--placement", "colocated", *FLAGS)
    folder = tmp_path_factory.mktemp("node")
    async with cpu_node(folder, "tiny", 2, *flags, command=lying(lies)) as started:
        yield started


def asked(prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "num_inference_steps": STEPS, "seed": 5, "exactness": "bitwise"}


async def assert_serves(node: Node, whole: ResidentModel) -> None:
    """The next request, as if nothing had happened."""
    body = asked("a fox")
    status, reply, _ = await post(node, **body)
    assert status == 200, reply
    assert picture_of(reply) == expected_picture(whole, body)


async def assert_survived(node: Node, whole: ResidentModel, lies: Path, prompt: str) -> None:
    (lies / prompt).touch()
    body = asked(prompt)
    status, reply, _ = await post(node, **body)
    assert not (lies / prompt).exists(), "the lie was not told"
    assert status == 200, reply
    assert picture_of(reply) == expected_picture(whole, body)
    await assert_serves(node, whole)


async def n_lost(node: Node) -> int:
    return int(await node.metric("triptych_worker_restarts_total"))


@pytest.mark.parametrize(
    "lie",
    [
        "exit StageStarted text_encoder once",
        *(f"exit StageDone {stage} once" for stage in STAGES),
        "exit StepDone denoise 3 once",
        "exit TaskDone decode once",
        "hang StepDone denoise 3 once",
        "hang StageStarted text_encoder once",
    ],
)
async def test_a_worker_lost_at_any_point_costs_no_picture(
    node: Node, whole: ResidentModel, lies: Path, lie: str
) -> None:
    before = await n_lost(node)
    await assert_survived(node, whole, lies, f"a fox {{{lie}}}")
    assert await n_lost(node) == before + 1
    if lie.startswith("hang"):
        assert "no progress in" in node.read_log()


@pytest.mark.parametrize("fault", ["twice", "garbage", "others"])
@pytest.mark.parametrize("message", ["StepDone denoise 2", "StageDone denoise", "TaskDone decode"])
async def test_lies_change_nothing(
    node: Node, whole: ResidentModel, lies: Path, fault: str, message: str
) -> None:
    before = await n_lost(node)
    await assert_survived(node, whole, lies, f"a fox {{{fault} {message} once}}")
    assert await n_lost(node) == before


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("fault", "code"),
    [("raise", "stage_failed"), ("memory", "out_of_memory"), ("torch_memory", "out_of_memory")],
)
async def test_a_stage_that_fails_fails_its_request_and_no_worker(
    node: Node, whole: ResidentModel, stage: str, fault: str, code: str
) -> None:
    before = await n_lost(node)
    status, reply, _ = await post(node, **asked(f"a fox {{{fault} StageStarted {stage}}}"))
    assert (status, reply["error"]["code"]) == (500, code)
    assert stage in reply["error"]["message"]
    await assert_serves(node, whole)
    assert await n_lost(node) == before


@pytest.mark.parametrize("lie", ["leave StepDone denoise 1", "leave StageDone decode"])
async def test_a_prompt_that_kills_each_worker_is_given_up_after_two(
    node: Node, whole: ResidentModel, lie: str
) -> None:
    await node.wait_ready()
    before = await n_lost(node)
    status, reply, _ = await post(node, **asked(f"a fox {{{lie}}}"))
    assert (status, reply["error"]["code"]) == (500, "worker_died_twice")
    await assert_serves(node, whole)
    assert await n_lost(node) == before + 2


async def test_no_file_of_all_those_is_left(node: Node) -> None:
    """What died with its worker before anyone was told of it is gone too."""

    async def is_clean() -> bool:
        return await node.metric("triptych_handoff_bytes") == await node.metric(
            "triptych_handoff_owned_bytes"
        )

    await node.wait_until(is_clean, "a store whose files all have an owner", timeout_s=30.0)
    assert await node.metric("triptych_open_requests") == 0


async def test_a_load_that_never_ends_is_ended(catalogue: Path, whole: ResidentModel, tmp_path: Path) -> None:
    (tmp_path / "hang-load").touch()
    flags = ("--catalogue", str(catalogue), "--load-timeout-s", "12", *FLAGS)
    async with cpu_node(tmp_path / "node", "tiny", 1, *flags, command=lying(tmp_path)) as node:
        assert "a load that has not ended in" in node.read_log()
        assert await n_lost(node) == 1
        await assert_serves(node, whole)
