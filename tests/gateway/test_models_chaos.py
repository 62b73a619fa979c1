"""Models, workers and requests all come and go at once: one answer each, and nothing is left in the end."""

from __future__ import annotations

import asyncio
import base64
import random

import pytest

from gateway.served import Status
from tests.gateway.conftest import OTHER, Bench, Start, until
from tests.gateway.test_models import assert_makes, gone, load, loaded, unload
from tests.gateway.test_recovery import assert_clean
from tests.gateway.toy import STAGES, picture_of

MODELS = ("toy", OTHER, "toy-third")
AROUND = ("describe", "forget", *(f"{when}:{stage}" for when in ("load", "warm") for stage in STAGES))
FATES = ("die", "step+die", "no_file", "fail:store_full", "fail:internal", "give_up", "lie")
ASKED = {200, 404, 500, 503}


async def ask(bench: Bench, draw: random.Random) -> int:
    await asyncio.sleep(draw.random() * 0.3)
    model, seed = draw.choice(MODELS), draw.randrange(1000)
    response = await bench.post(model=model, seed=seed, n=2)
    if response.status == 200:
        pictures = [base64.b64decode(image["b64_json"]) for image in (await response.json())["data"]]
        assert pictures == [picture_of(seed + i, model=model) for i in range(2)]
    return response.status


async def operate(bench: Bench, draw: random.Random) -> None:
    for _ in range(6):
        await asyncio.sleep(draw.random() * 0.05)
        model = draw.choice(MODELS)
        if draw.random() < 0.6:
            wait = {"wait": True} if draw.random() < 0.5 else {}
            assert (await load(bench, model, **wait)).status in (200, 202, 404, 409, 500)
        else:
            # the first one stays, so that something is always served
            assert (await unload(bench, draw.choice(MODELS[1:]))).status in (202, 404)


async def disturb(bench: Bench, draw: random.Random) -> None:
    for _ in range(6):
        await asyncio.sleep(draw.random() * 0.1)
        up = [worker.worker_id for worker in bench.engine.fleet if worker.is_up]
        if up and draw.random() < 0.4:
            bench.fleet.kill(draw.choice(up))
        elif draw.random() < 0.5:
            bench.fleet.fates.add(draw.choice(AROUND), draw.choice(("die", "fail")))
        else:
            bench.fleet.fates.add(draw.choice(STAGES), draw.choice(FATES))


@pytest.mark.parametrize("placement", ["auto", "colocated"])
@pytest.mark.parametrize("seed", range(4))
async def test_models_come_and_go_in_a_storm(
    start: Start, seed: int, placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.setbacks.STORE_FULL_HOLD_S", 0.001)
    monkeypatch.setattr("gateway.warmup.HOLD_S", 0.001)
    draw = random.Random(seed)
    bench = await start(
        n_workers=3, placement=placement, heartbeat_timeout_s=0.5, drain_timeout_s=0.1, encode_cache_bytes=200
    )
    asking = [ask(bench, draw) for _ in range(40)]
    work = [*(operate(bench, draw) for _ in range(3)), disturb(bench, draw)]
    statuses, _ = await asyncio.gather(asyncio.gather(*asking), asyncio.gather(*work))
    assert {200} <= set(statuses) <= ASKED
    assert not bench.engine.failed.done()
    del bench.fleet.fates._fates[:]

    def is_settled() -> bool:
        return all(s.status is not Status.LOADING and s.leaving is None for s in bench.engine.roster)

    await until(is_settled, "models that neither come nor go")
    for served in bench.engine.roster:
        await unload(bench, served.name)
        await gone(bench, served.name)
    assert not bench.engine.planner.models
    assert bench.n_files == bench.engine.handoffs.statistics()["files"] == 0
    for model in MODELS:
        await loaded(bench, model)
    for model in MODELS:
        await assert_makes(bench, model)
    await assert_clean(bench)
