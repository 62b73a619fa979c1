"""Everything at once: many requests, leaving clients, workers that meet any fate. One answer each."""

from __future__ import annotations

import asyncio
import base64
import random

import pytest

from tests.gateway.conftest import Bench, Start, until
from tests.gateway.toy import STAGES, picture_of

FATES = (
    "die",
    "step+die",
    "write+die",
    "lie",
    "skip",
    "no_file",
    "fail:store_full",
    "fail:handoff_lost",
    "fail:internal",
    "fail:input",
    "give_up",
    "silent",
    "others_file",
    "no_room",
    "checkpoint+die",
    "lost_checkpoint",
    "others_checkpoint",
    "unasked",
)
SPLIT = {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",), "cpu-2": ("denoise",)}
ANSWERS = {200, 400, 429, 500, 503}


async def ask(bench: Bench, draw: random.Random) -> int | None:
    seed, n = draw.randrange(1000), draw.choice((1, 1, 2, 4))
    prompt = draw.choice(("a hat", "a cap", "a wig"))
    posted = bench.posted(seed=seed, n=n, prompt=prompt)
    if draw.random() < 0.2:
        for _ in range(draw.randrange(40)):
            await asyncio.sleep(0)
        posted.cancel()
    try:
        response = await posted
    except asyncio.CancelledError:
        return None
    if response.status == 200:
        pictures = [base64.b64decode(image["b64_json"]) for image in (await response.json())["data"]]
        assert pictures == [picture_of(seed + i) for i in range(n)]
    return response.status


@pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["auto", "split"])
@pytest.mark.parametrize(("checkpoint_every", "encode_cache_bytes"), [(0, 0), (1, 40)])
@pytest.mark.parametrize("seed", range(3))
async def test_each_request_is_answered_once(
    start: Start,
    seed: int,
    placement: object,
    checkpoint_every: int,
    encode_cache_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.setbacks.STORE_FULL_HOLD_S", 0.001)
    draw = random.Random(seed)
    bench = await start(
        n_workers=3,
        placement=placement,
        heartbeat_timeout_s=0.4,
        max_queued_jobs=60,
        checkpoint_every=checkpoint_every,
        encode_cache_bytes=encode_cache_bytes,
    )
    for _ in range(25):
        bench.fleet.fates.add(draw.choice(STAGES), draw.choice(FATES))
    statuses = await asyncio.gather(*(ask(bench, draw) for _ in range(40)))
    assert {status for status in statuses if status is not None} <= ANSWERS
    assert 200 in statuses
    while any(bench.fleet.fates.take(stage) for stage in STAGES):
        pass
    await until(lambda: not bench.engine.book.open_requests, "the requests' end")
    workers = [*bench.engine.fleet]
    await until(lambda: all(w.is_up and not w.task and not w.asked for w in workers), "idle workers")
    bench.engine.book.check()
    counted = bench.engine.book.statistics()
    assert counted["accepted"] + counted["requests_rejected"] <= 40
    # a client may leave when its pictures are done and not yet read
    n_answered, n_left = statuses.count(200), statuses.count(None)
    assert n_answered <= counted["requests_done"] <= n_answered + n_left
    assert bench.n_files == bench.engine.handoffs.statistics()["files"] == bench.n_kept
    response = await bench.post(seed=1)
    assert response.status == 200
    assert not bench.engine.failed.done()
