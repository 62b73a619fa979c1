"""`GET /v1/fleet`, field by field, with workers held at known points."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from gateway.accounts import MAX_EFFECTS
from gateway.errors import ShuttingDown
from gateway.fleet_report import FleetReport
from gateway.fleet_view import MAX_WAITING_SHOWN
from gateway.version import VERSION
from tests.gateway.conftest import OTHER, Bench, Start, until
from tests.gateway.toy import NODE, STAGES
from wire.codec import PROTOCOL_VERSION

SPLIT = {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)}
SECRET = "a lighthouse that nobody may know of"


async def body_of(bench: Bench) -> bytes:
    response = await bench.client.get("/v1/fleet")
    assert (response.status, response.content_type) == (200, "application/json")
    body: bytes = await response.read()
    return body


async def seen(bench: Bench) -> FleetReport:
    return msgspec.json.decode(await body_of(bench), type=FleetReport)


def is_now(unix_s: float) -> bool:
    return abs(time.time() - unix_s) < 60.0


async def test_an_idle_fleet(start: Start) -> None:
    bench = await start(placement=SPLIT)
    report = await seen(bench)
    assert is_now(report.at_unix_s)
    gateway = report.gateway
    assert (gateway.version, gateway.protocol) == (VERSION, PROTOCOL_VERSION)
    assert (gateway.not_ready, gateway.draining, gateway.open_requests) == (None, False, 0)
    assert 0 < gateway.uptime_s < 60
    assert [msgspec.to_builtins(model) for model in report.models] == [
        {"id": "toy", "status": "ready", "reason": None, "at_start": True}
    ]
    encodes, loops = report.workers
    assert (encodes.id, loops.id) == ("cpu-0", "cpu-1")
    assert encodes.resident == {"toy": ("decode", "text_encoder")}
    assert loops.resident == {"toy": ("denoise",)}
    for worker in report.workers:
        assert (worker.device, worker.device_name, worker.node, worker.threads) == (
            "cpu",
            "scripted",
            NODE,
            1,
        )
        assert worker.pid is not None
        assert (worker.state, worker.phase, worker.to_be_killed) == ("up", "idle", False)
        assert (worker.restarts, worker.last_exit) == (0, None)
        assert (worker.loading, worker.failed, worker.finishing, worker.task) == ({}, {}, (), None)
        assert worker.resident_bytes == 1000
        assert is_now(worker.since_unix_s)
        assert worker.since_unix_s <= worker.heard_unix_s
    assert report.host_weights_bytes == {NODE: 0}
    assert report.queue.total == 0
    assert report.queue.first == ()
    assert set(report.queue.jobs_by_state.values()) == {0}
    assert report.placement is not None
    placed = {name: (w.stages, w.parts, w.replica) for name, w in report.placement.workers.items()}
    assert placed == {
        "cpu-0": ({"toy": ("decode", "text_encoder")}, {"toy": "EC"}, {}),
        "cpu-1": ({"toy": ("denoise",)}, {"toy": "D"}, {"toy": "V3"}),
    }
    assert (report.placement.rate, report.placement.homeless) == (None, {})
    assert report.placement.reason == "pinned_placement"
    assert report.placement.detail
    assert is_now(report.placement.since_unix_s)
    assert sorted((e.effect, e.worker, e.model, e.stages, e.jobs, e.reason) for e in report.effects) == [
        ("load", "cpu-0", "toy", ("text_encoder", "decode"), (), "pinned_placement"),
        ("load", "cpu-1", "toy", ("denoise",), (), "pinned_placement"),
    ]
    assert all(is_now(effect.at_unix_s) for effect in report.effects)
    assert report.store.files == bench.n_kept
    assert report.store.n_bytes == bench.store.used_bytes()
    assert 0 < report.store.owned_bytes <= report.store.n_bytes < report.store.capacity_bytes
    assert msgspec.to_builtins(report.encode_cache) == {"entries": 0, "n_bytes": 0, "hits": 0, "misses": 0}


async def test_what_runs_and_what_waits(start: Start) -> None:
    bench = await start(("denoise", "hold"), placement=SPLIT)
    first = bench.posted(prompt=SECRET, seed=1, n=2, num_inference_steps=7, slo_ms=50_000)
    await until(lambda: sorted(job.state for job in bench.engine.book) == ["diffusing", "ready"])
    bench.fleet.fates.add("text_encoder", "hold")
    second = bench.posted(prompt=SECRET, n=3, slo_ms=90_000, priority="batch")
    await until(lambda: sum(job.state == "encoding" for job in bench.engine.book) == 1)
    await until(lambda: bench.engine.fleet["cpu-1"].task.steps_done == 1)  # type: ignore[union-attr]
    body = await body_of(bench)
    assert b"lighthouse" not in body
    report = msgspec.json.decode(body, type=FleetReport)
    encodes, loops = report.workers
    denoised, ready, *others = bench.engine.book
    task = loops.task
    assert task is not None
    assert (task.job, task.request, task.model) == (denoised.job_id, denoised.request_id, "toy")
    assert (task.stages, task.stage, task.step, task.steps) == (("denoise",), "denoise", 1, 7)
    assert task.id == denoised.task_id
    assert is_now(task.since_unix_s)
    assert task.since_unix_s <= task.moved_unix_s
    assert not task.pausing
    assert encodes.task is not None
    assert (encodes.task.stage, encodes.task.step, encodes.task.request) == (
        "text_encoder",
        None,
        others[0].request_id,
    )
    assert report.queue.total == 3
    assert [waiting.job for waiting in report.queue.first] == [job.job_id for job in (ready, *others[1:])]
    next_one, last = report.queue.first[0], report.queue.first[-1]
    assert (next_one.request, next_one.model, next_one.stage) == (ready.request_id, "toy", "denoise")
    assert (next_one.state, next_one.priority, next_one.step, next_one.steps) == ("ready", "standard", 0, 7)
    assert (last.stage, last.state, last.priority) == ("text_encoder", "queued", "batch")
    assert 0 <= next_one.age_s < 40
    assert next_one.age_s + next_one.slack_s == pytest.approx(50.0, abs=0.01)
    assert next_one.held_s == 0.0
    counts = {state: n for state, n in report.queue.jobs_by_state.items() if n}
    assert counts == {"queued": 2, "encoding": 1, "ready": 1, "diffusing": 1}
    assert report.gateway.open_requests == 2
    runs = [effect for effect in report.effects if effect.effect == "run"]
    assert (runs[-1].worker, runs[-1].model, runs[-1].stages) == ("cpu-0", "toy", ("text_encoder",))
    assert runs[-1].jobs == (others[0].job_id,)
    assert runs[-1].reason == "earliest_deadline"
    bench.fleet.release.set()
    assert [(await posted).status for posted in (first, second)] == [200, 200]


async def test_a_picture_that_is_being_encoded(start: Start) -> None:
    bench = await start(("decode", "end+hold"), n_workers=1)
    posted = bench.posted()
    await until(lambda: bench.engine.fleet["cpu-0"].finishing)
    (worker,) = (await seen(bench)).workers
    assert worker.task is None
    (finishing,) = worker.finishing
    assert (finishing.stages, finishing.stage, finishing.step) == (STAGES, None, None)
    assert finishing.job is not None
    bench.fleet.release.set()
    assert (await posted).status == 200


async def test_a_model_that_loads_and_a_worker_that_warms_up(start: Start) -> None:
    bench = await start(("warm:denoise", "hold"), n_workers=1, wait_ready=False)
    await until(lambda: (task := bench.engine.fleet["cpu-0"].task) and task.stages == ("denoise",))
    report = await seen(bench)
    (model,) = report.models
    assert model.status == "loading"
    assert model.reason is not None
    assert "denoise" in model.reason
    assert report.gateway.not_ready is not None
    (worker,) = report.workers
    assert worker.resident == {"toy": ("text_encoder",)}
    assert worker.loading == {"toy": ("decode", "denoise")}
    assert worker.task is not None
    assert (worker.task.job, worker.task.request, worker.task.stage) == (None, None, "denoise")
    bench.fleet.release.set()
    await until(bench.engine.ready.is_set)


async def test_before_anything_is_known(start: Start) -> None:
    bench = await start(("describe", "hold"), n_workers=1, wait_ready=False)
    report = await seen(bench)
    assert report.placement is None
    assert report.effects == ()
    bench.fleet.release.set()
    await until(bench.engine.ready.is_set)


async def test_a_worker_that_died_and_one_that_is_to_be_killed(start: Start) -> None:
    bench = await start(("denoise", "die"), n_workers=1)
    bench.fleet.fates.add("warm:text_encoder", "hold")
    posted = bench.posted()
    await until(lambda: bench.fleet.n_deaths["cpu-0"] == 1 and bench.engine.fleet["cpu-0"].task)
    (worker,) = (await seen(bench)).workers
    assert (worker.state, worker.restarts, worker.last_exit) == ("up", 1, "killed by SIGKILL")
    assert worker.resident == {}
    bench.engine.fleet["cpu-0"].condemned = True
    assert (await seen(bench)).workers[0].to_be_killed
    bench.engine.fleet["cpu-0"].condemned = False
    bench.fleet.release.set()
    assert (await posted).status == 200


async def test_a_job_that_is_kept_back(start: Start) -> None:
    bench = await start(("denoise", "fail:store_full"), n_workers=1)
    posted = bench.posted()
    await until(lambda: any(job.n_store_full for job in bench.engine.book))
    for job in bench.engine.book:
        job.hold_until_s += 30.0
    (waiting,) = (await seen(bench)).queue.first
    assert 0 < waiting.held_s <= 31
    for job in bench.engine.book:
        job.hold_until_s = 0.0
    bench.engine._dirty.set()
    assert (await posted).status == 200


async def test_two_models_of_which_one_leaves(start: Start) -> None:
    bench = await start(("denoise", "hold"), n_workers=1, models=("toy", OTHER))
    posted = bench.posted(model=OTHER)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    assert (await bench.client.delete(f"/v1/models/{OTHER}")).status == 202
    report = await seen(bench)
    assert [(model.id, model.status, model.at_start) for model in report.models] == [
        ("toy", "ready", True),
        (OTHER, "unloading", False),
    ]
    (worker,) = report.workers
    assert set(worker.resident) == {"toy", OTHER}
    assert worker.task is not None
    assert worker.task.model == OTHER
    assert {effect.model for effect in report.effects} == {"toy", OTHER}
    bench.fleet.release.set()
    assert (await posted).status == 200
    await until(lambda: [served.name for served in bench.engine.roster] == ["toy"])
    report = await seen(bench)
    assert [model.id for model in report.models] == ["toy"]
    assert set(report.workers[0].resident) == {"toy"}


async def test_a_drain(start: Start) -> None:
    bench = await start()
    bench.engine.desk.refuse(ShuttingDown("the gateway is stopping"))
    gateway = (await seen(bench)).gateway
    assert gateway.draining
    assert gateway.not_ready == "the gateway is stopping"


async def test_it_is_bounded(start: Start) -> None:
    bench = await start(("text_encoder", "hold"), n_workers=1, max_queued_jobs=1000)
    posted = [bench.posted(n=10) for _ in range(22)]
    await until(lambda: bench.engine.book.n_waiting() == 219)
    report = await seen(bench)
    assert report.queue.total == 219
    assert len(report.queue.first) == MAX_WAITING_SHOWN
    bench.fleet.release.set()
    assert [(await response).status for response in posted] == [200] * 22
    assert len((await seen(bench)).effects) == MAX_EFFECTS


async def test_only_what_is_meant_to_be_told_is_told(start: Start) -> None:
    """A field of a worker or a job that is added later does not come out by itself."""
    bench = await start(("denoise", "hold"), n_workers=1)
    posted = bench.posted(prompt=SECRET, negative_prompt=SECRET)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for part in value.values() for name in names(part)}
        return {name for part in value for name in names(part)} if isinstance(value, list) else set()

    told = names(msgspec.json.decode(await body_of(bench)))
    assert not {name for name in told if "prompt" in name or "seed" in name}
    bench.fleet.release.set()
    assert (await posted).status == 200
