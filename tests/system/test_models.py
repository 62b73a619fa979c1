"""Models loaded and unloaded on a real node, while another one serves requests all the time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch

from bench.catalogue_file import catalogue_file
from bench.node import Node
from kernels.switch import Switch
from pipelines.catalogue import Model
from tests.families.flux import flux
from tests.system.nodes import cpu_node
from tests.system.pictures import STAGES, expected_picture, picture_of, post
from worker.components import Components
from worker.resident import ResidentModel

pytestmark = [pytest.mark.process]

OTHER = "tiny-flux"
N_CLIENTS = 3


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def other_whole(other: Model) -> ResidentModel:
    """The reference of the second model."""
    device = torch.device("cpu")
    # what the gateway's workers are told by default
    components = Components(device, switch=Switch("auto", device))
    resident = ResidentModel(OTHER, other, device, components)
    resident.load(STAGES)
    return resident


async def models(node: Node, method: str, name: str, **body: Any) -> tuple[int, dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=180)
    async with (
        aiohttp.ClientSession(node.base_url, timeout=timeout) as session,
        session.request(method, f"/v1/models/{name}", json=body or None) as reply,
    ):
        return reply.status, await reply.json()


class Clients:
    """They ask for pictures of one model without a pause, and keep what they got."""

    def __init__(self, node: Node, **body: Any) -> None:
        self._node = node
        self._body = body
        self._going = True
        self._tasks: list[asyncio.Task[None]] = []
        self.got: list[tuple[int, int, dict[str, Any]]] = []

    def begin(self) -> None:
        self._tasks = [asyncio.create_task(self._ask(client)) for client in range(N_CLIENTS)]

    async def end(self) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def _ask(self, client: int) -> None:
        seed = client
        while self._going:
            status, reply, _ = await post(self._node, **self._body, seed=seed % 12)
            self.got.append((seed % 12, status, reply))
            seed += N_CLIENTS


async def test_a_second_model_comes_and_goes_under_load(
    catalogue: Path, other: Model, whole: ResidentModel, other_whole: ResidentModel, tmp_path: Path
) -> None:
    body = {"prompt": "a cat", "num_inference_steps": 4}
    # long enough to be seen while they are open
    longer = {**body, "guidance_scale": 3.5, "num_inference_steps": 60}
    flags = ("--catalogue", str(catalogue), "--catalogue", str(catalogue_file(tmp_path, OTHER, other)))
    async with cpu_node(tmp_path, "tiny", 2, *flags) as node:

        async def is_resident(n_stages: int) -> bool:
            report = await fleet(node)
            return all(
                sum(len(stages) for stages in worker["resident"].values()) == n_stages
                for worker in report["workers"]
            )

        await node.wait_until(lambda: is_resident(3), "every stage on both workers")
        resident_bytes = await node.metric("triptych_worker_resident_bytes")
        clients = Clients(node, **body, model="tiny")
        clients.begin()
        try:
            assert (await models(node, "POST", OTHER))[0] == 202
            assert (await post(node, **body, model=OTHER))[0] == 503
            status, model = await models(node, "POST", OTHER, wait=True)
            assert (status, model["status"]) == (200, "ready"), model
            n_while_it_loaded = len(clients.got)
            replies = await asyncio.gather(
                *(post(node, **longer, model=OTHER, seed=seed) for seed in range(4))
            )
            await node.wait_until(lambda: is_resident(6), "both models on both workers")
            assert await node.metric("triptych_worker_resident_bytes") > resident_bytes
            last = [asyncio.create_task(post(node, **longer, model=OTHER, seed=seed)) for seed in range(4, 8)]
            await node.wait_until(lambda: _has_begun(node), "open requests of the second model")
            assert (await models(node, "DELETE", OTHER))[0] == 202
            replies += await asyncio.gather(*last)

            async def is_gone() -> bool:
                return (await models(node, "GET", OTHER))[0] == 404

            await node.wait_until(is_gone, "the second model to go")
            assert (await post(node, **body, model=OTHER))[0] == 404
            assert await node.metric("triptych_worker_resident_bytes") == resident_bytes
        finally:
            await clients.end()
        assert [status for status, _, _ in replies] == [200] * 8
        for seed, (_, reply, _) in enumerate(replies):
            assert picture_of(reply) == expected_picture(other_whole, {**longer, "seed": seed})
        # the first one never noticed
        assert n_while_it_loaded >= N_CLIENTS
        assert {status for _, status, _ in clients.got} == {200}
        pictures = {seed: expected_picture(whole, {**body, "seed": seed}) for seed in range(12)}
        assert all(picture_of(reply) == pictures[seed] for seed, _, reply in clients.got)
        assert await node.metric("triptych_worker_restarts_total") == 0


async def fleet(node: Node) -> dict[str, Any]:
    async with aiohttp.ClientSession(node.base_url) as session, session.get("/v1/fleet") as reply:
        report: dict[str, Any] = await reply.json()
        return report


async def _has_begun(node: Node) -> bool:
    waiting = await node.metric("triptych_queue_jobs", model=OTHER)
    return waiting + await node.metric("triptych_in_flight_jobs", model=OTHER) > 0
