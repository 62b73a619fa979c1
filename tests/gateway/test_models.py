"""Models come and go while others are served: what each call answers, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from gateway.api_keys import ApiKey, digest_of, store_keys
from gateway.errors import InternalError, OperatorError, ShuttingDown
from gateway.served import NEXT, Event, ServedModel, Status
from tests.gateway.conftest import MODEL, OTHER, Bench, Start, until
from tests.gateway.test_recovery import SPLIT, assert_clean
from tests.gateway.test_serving import error_of
from tests.gateway.toy import CLIPS, STAGES, picture_of
from wire.to_worker import Describe, ForgetModel, LoadStages, RunTask

BOTH = ("toy", OTHER)
KIND = "scripted, threads 1"
ROOM = 10_000


async def load(bench: Bench, name: str = OTHER, **body: Any) -> ClientResponse:
    return await bench.client.post(f"/v1/models/{name}", json=body or None)


async def unload(bench: Bench, name: str = OTHER) -> ClientResponse:
    return await bench.client.delete(f"/v1/models/{name}")


async def loaded(bench: Bench, name: str = OTHER) -> None:
    response = await load(bench, name, wait=True)
    assert response.status == 200, await response.text()


async def shown(bench: Bench, name: str = OTHER) -> dict[str, Any]:
    model: dict[str, Any] = await (await bench.client.get(f"/v1/models/{name}")).json()
    return model


async def comes_to(bench: Bench, status: str, name: str = OTHER) -> dict[str, Any]:
    await until(lambda: bench.engine.roster.get(name).status == status, f"{name} {status}")
    return await shown(bench, name)


async def gone(bench: Bench, name: str = OTHER) -> None:
    await until(lambda: name not in [served.name for served in bench.engine.roster], f"{name} gone")
    assert (await bench.client.get(f"/v1/models/{name}")).status == 404


async def assert_makes(bench: Bench, model: str | None = None, seed: int = 9) -> None:
    """A picture of that very model; of the first one where none is named."""
    fields = {} if model is None else {"model": model}
    response = await bench.post(seed=seed, **fields)
    assert response.status == 200, await response.text()
    (image,) = (await response.json())["data"]
    assert base64.b64decode(image["b64_json"]) == picture_of(seed, model=model or "toy")


async def assert_refuses(bench: Bench, model: str, status: int, code: str) -> str:
    response = await bench.post(model=model)
    error = await error_of(response)
    assert (response.status, error["code"]) == (status, code)
    return str(error["message"])


def heard(bench: Bench, kind: type, model: str = OTHER) -> list[str]:
    """The workers that were told so of a model, once for each time."""
    return [
        worker
        for worker, messages in bench.fleet.heard.items()
        for message in messages
        if isinstance(message, kind) and getattr(message, "model", "") == model
    ]


async def assert_nothing_of(bench: Bench, model: str) -> None:
    """No worker holds anything of it, no file is left of it, and it is not placed."""
    for worker in bench.engine.fleet:
        keys = worker.resident | worker.asked | worker.unwarmed | worker.failed
        assert not {key for key in keys if key[0] == model}
    assert model not in bench.engine.planner.models
    await assert_clean(bench)


# served together


async def test_each_request_gets_its_own_model(start: Start) -> None:
    bench = await start(models=BOTH)
    for model in (*BOTH, None):
        await assert_makes(bench, model)
    listed = await (await bench.client.get("/v1/models")).json()
    assert [(m["id"], m["status"], m["reason"]) for m in listed["data"]] == [
        ("toy", "ready", None),
        (OTHER, "ready", None),
    ]
    assert {"object", "created", "owned_by", "adapters"} <= listed["data"][0].keys()
    ready = await (await bench.client.get("/ready")).json()
    assert ready["models"] == list(BOTH)
    assert "served: toy, toy-other" in await assert_refuses(bench, "no-such", 404, "model_not_found")
    await assert_clean(bench)


@pytest.mark.parametrize("placement", ["auto", "colocated", SPLIT], ids=["auto", "colocated", "split"])
async def test_many_of_both_at_once(start: Start, placement: object) -> None:
    bench = await start(models=BOTH, placement=placement, encode_cache_bytes=ROOM)
    # the same prompt and seeds: nothing of one model may reach the other
    await asyncio.gather(*(assert_makes(bench, BOTH[n % 2], seed=n // 2) for n in range(24)))
    assert bench.engine.encodes.statistics()["entries"] == 2
    await assert_clean(bench)


async def test_a_worker_that_comes_back_gets_every_model(start: Start) -> None:
    bench = await start(models=("toy",), n_workers=1)
    await loaded(bench)
    bench.fleet.kill("cpu-0")
    await until(lambda: bench.fleet.n_deaths["cpu-0"] == 1)
    assert (await bench.client.get("/ready")).status == 503
    await until(lambda: len(bench.engine.fleet["cpu-0"].resident) == 6)
    for model in BOTH:
        await assert_makes(bench, model)
    await assert_clean(bench)


async def test_costs_are_of_one_model(start: Start) -> None:
    bench = await start(models=BOTH)
    await assert_makes(bench, OTHER)
    costs = bench.engine.planner._state.profile.costs
    assert {model for _, model, _ in costs} == set(BOTH)
    shape = next(iter(_shapes(bench)))
    assert bench.engine.planner.measured_s(KIND, OTHER, "denoise", shape) is not None
    assert bench.engine.planner.measured_s(KIND, "no-such", "denoise", shape) is None
    assert bench.engine.planner.measured_s("another kind", OTHER, "denoise", shape) is None


async def test_a_model_of_the_start_that_fails_ends_it(start: Start) -> None:
    bench = await start(models=BOTH, wait_ready=False)
    bench.fleet.fates.add("warm:decode", "fail:internal")
    error = await asyncio.wait_for(asyncio.shield(bench.engine.failed), 5)
    assert isinstance(error, OperatorError)
    assert "the first run of decode" in str(error)


# loading


async def test_a_model_is_loaded_while_another_is_served(start: Start) -> None:
    bench = await start()
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    bench.fleet.fates.add("load:denoise", "hold")
    response = await load(bench)
    assert response.status == 202
    model = await response.json()
    assert (model["id"], model["status"]) == (OTHER, "loading")
    await until(lambda: heard(bench, LoadStages))
    assert (await load(bench)).status == 200
    # one worker loads, the other one serves
    (loading,) = heard(bench, LoadStages)
    for seed in range(6):
        await assert_makes(bench, seed=seed)
    assert {w for w, got in bench.fleet.heard.items() for m in got if m in bench.fleet.tasks()} == {
        *bench.fleet.heard
    } - {loading}
    assert "text_encoder" in (await shown(bench))["reason"]
    assert "/v1/models/toy-other" in await assert_refuses(bench, OTHER, 503, "not_ready")
    assert (await bench.client.get("/ready")).status == 200
    bench.fleet.release.set()
    await comes_to(bench, "ready")
    await assert_makes(bench, OTHER)
    # then the other one loads it too
    await until(lambda: all(len(worker.resident) == 6 for worker in bench.engine.fleet))
    assert (await load(bench)).status == 200
    assert len(heard(bench, LoadStages)) == 2
    assert len(heard(bench, Describe)) == 1
    await assert_clean(bench)


async def test_what_is_not_in_the_catalogue_is_404(start: Start) -> None:
    bench = await start()
    response = await load(bench, "no/such")
    assert (response.status, (await error_of(response))["code"]) == (404, "model_not_found")
    assert (await unload(bench, "no/such")).status == 404
    assert (await bench.client.get("/v1/models/no/such")).status == 404


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"wait": 1}', "application/json", 400, "invalid_value"),
        (b'{"no": 1}', "application/json", 400, "invalid_value"),
        (b'{"wait": true}', "text/plain", 415, "wrong_content_type"),
    ],
)
async def test_a_body_that_is_none(start: Start, body: bytes, kind: str, status: int, code: str) -> None:
    bench = await start()
    response = await bench.client.post(f"/v1/models/{OTHER}", data=body, headers={"Content-Type": kind})
    assert (response.status, (await error_of(response))["code"]) == (status, code)
    assert [served.name for served in bench.engine.roster] == ["toy"]


FAILURES = [
    (("describe", "fail"), "cannot be served: no such blocks"),
    (("describe", "lie"), "wrongly"),
    (("load:denoise", "fail"), "cannot load"),
    (("warm:text_encoder", "fail:internal"), "the first run of text_encoder on cpu-"),
    (("warm:decode", "fail:out_of_memory"), "the first run of decode on cpu-"),
    (("warm:denoise", "others_file"), "the file of another task"),
]


@pytest.mark.parametrize(("fate", "said"), FAILURES)
@pytest.mark.parametrize("placement", ["auto", SPLIT], ids=["together", "split"])
async def test_a_model_that_fails_is_alone_in_it(
    start: Start, fate: tuple[str, str], said: str, placement: object
) -> None:
    bench = await start(placement=placement)
    workers = list(bench.engine.fleet)
    n_homes = sum(map(len, SPLIT.values())) if placement is SPLIT else len(STAGES) * len(workers)
    # a fate that the first model's own loads and first runs do not meet
    await until(lambda: sum(len(worker.resident) for worker in workers) == n_homes)
    bench.fleet.fates.add(*fate)
    response = await load(bench, wait=True)
    error = await error_of(response)
    assert (response.status, error["code"]) == (500, "model_failed")
    assert said in error["message"]
    assert (await shown(bench))["status"] == "failed"
    assert said in (await shown(bench))["reason"]
    assert "served: toy" in await assert_refuses(bench, OTHER, 404, "model_not_found")
    assert (await bench.client.get("/ready")).status == 200
    await assert_makes(bench)
    assert not bench.engine.failed.done()
    assert set(bench.fleet.n_deaths.values()) == {0}
    # again
    await loaded(bench)
    assert (await shown(bench))["reason"] is None
    await assert_makes(bench, OTHER)
    await assert_clean(bench)


async def test_a_model_that_failed_can_be_taken_away(start: Start) -> None:
    bench = await start()
    bench.fleet.fates.add("load:decode", "fail")
    await load(bench)
    await comes_to(bench, "failed")
    assert (await unload(bench)).status == 202
    await gone(bench)
    await assert_nothing_of(bench, OTHER)


@pytest.mark.parametrize("fate", ["describe", "load:denoise", "warm:denoise"])
async def test_a_worker_that_dies_while_a_model_loads(start: Start, fate: str) -> None:
    bench = await start()
    bench.fleet.fates.add(fate, "die")
    await loaded(bench)
    assert sum(bench.fleet.n_deaths.values()) == 1
    for model in BOTH:
        await assert_makes(bench, model)
    await assert_clean(bench)


@pytest.mark.parametrize("fate", ["describe", "load:denoise", "warm:denoise"])
@pytest.mark.parametrize("n_workers", [1, 2])
async def test_a_model_that_kills_its_workers_fails(start: Start, fate: str, n_workers: int) -> None:
    bench = await start(n_workers=n_workers)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    for _ in range(2):
        # not what the first model's stages meet on the worker that comes back
        bench.fleet.fates.add(f"{fate} of {OTHER}", "die")
    response = await load(bench, wait=True)
    assert (response.status, (await error_of(response))["code"]) == (500, "model_failed")
    assert "2 workers were lost" in (await shown(bench))["reason"]
    assert sum(bench.fleet.n_deaths.values()) == 2
    await assert_makes(bench)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    await assert_nothing_of(bench, OTHER)


async def test_stages_that_are_pinned_nowhere_fail_the_model(start: Start) -> None:
    bench = await start(placement=SPLIT)
    response = await load(bench, CLIPS, wait=True)
    assert response.status == 500
    assert "no worker holds clip_decode of toy-clips" in (await shown(bench, CLIPS))["reason"]
    await assert_makes(bench)
    await until(lambda: bench.engine.roster.get(CLIPS).leaving is None)
    await assert_nothing_of(bench, CLIPS)


async def test_models_with_other_stages_share_a_colocated_fleet(start: Start) -> None:
    bench = await start(placement="colocated")
    await loaded(bench, CLIPS)
    for model in ("toy", CLIPS):
        await assert_makes(bench, model)
    await assert_clean(bench)


async def test_a_load_that_fails_later_costs_that_worker_only(start: Start) -> None:
    bench = await start(models=BOTH)
    await until(lambda: all(len(worker.resident) == 6 for worker in bench.engine.fleet))
    bench.fleet.fates.add("load:denoise", "fail")
    bench.fleet.kill("cpu-0")
    await until(lambda: len(bench.engine.fleet["cpu-0"].failed) == 3)
    await until(lambda: len(bench.engine.fleet["cpu-0"].resident) == 3)
    for model in BOTH:
        await assert_makes(bench, model)
    # it was not asked again, and a new process is
    (failed,) = {model for model, _ in bench.engine.fleet["cpu-0"].failed}
    assert heard(bench, LoadStages, failed).count("cpu-0") == 2
    bench.fleet.kill("cpu-0")
    await until(lambda: len(bench.engine.fleet["cpu-0"].resident) == 6)
    await assert_clean(bench)


async def test_a_model_that_no_worker_can_hold_any_more_fails(start: Start) -> None:
    bench = await start(n_workers=1)
    await loaded(bench)
    bench.fleet.fates.add("text_encoder", "hold")
    held = bench.posted(model=OTHER)
    await until(lambda: any(job.state == "encoding" for job in bench.engine.book))
    # the first load of the new process is that of the first model
    bench.fleet.fates.add("load:decode", "pass")
    bench.fleet.fates.add("load:decode", "fail")
    bench.fleet.kill("cpu-0")
    response = await held
    assert (response.status, (await error_of(response))["code"]) == (500, "model_failed")
    assert "cannot be loaded any more on cpu-0" in (await comes_to(bench, "failed"))["reason"]
    await assert_makes(bench)
    await assert_clean(bench)


async def test_a_first_run_that_keeps_failing_does_not_kill_a_worker_for_ever(start: Start) -> None:
    bench = await start(models=BOTH)
    await until(lambda: all(len(worker.resident) == 6 for worker in bench.engine.fleet))
    for _ in range(2):
        bench.fleet.fates.add("warm:text_encoder", "fail:internal")
    bench.fleet.kill("cpu-1")
    await until(lambda: bench.engine.fleet["cpu-1"].failed)
    assert bench.fleet.n_deaths == {"cpu-0": 0, "cpu-1": 2}
    for model in BOTH:
        await assert_makes(bench, model)
    assert not bench.engine.failed.done()


# unloading


async def test_open_requests_end_well_and_then_it_is_gone(start: Start) -> None:
    bench = await start(models=BOTH, encode_cache_bytes=ROOM)
    await assert_makes(bench, OTHER, seed=1)
    bench.fleet.fates.add("denoise", "hold")
    held = bench.posted(model=OTHER, seed=2, n=3)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    response = await unload(bench)
    assert (response.status, (await response.json())["status"]) == (202, "unloading")
    assert (await shown(bench))["status"] == "unloading"
    assert (await unload(bench)).status == 202
    await assert_refuses(bench, OTHER, 404, "model_not_found")
    response = await load(bench)
    assert (response.status, (await error_of(response))["code"]) == (409, "model_unloading")
    assert int(response.headers["Retry-After"]) >= 1
    assert not heard(bench, ForgetModel)
    bench.fleet.release.set()
    response = await held
    assert response.status == 200
    pictures = [base64.b64decode(image["b64_json"]) for image in (await response.json())["data"]]
    assert pictures == [picture_of(2 + i, model=OTHER) for i in range(3)]
    await gone(bench)
    assert sorted(heard(bench, ForgetModel)) == ["cpu-0", "cpu-1"]
    assert bench.engine.encodes.statistics()["entries"] == 0
    await assert_makes(bench)
    await assert_nothing_of(bench, OTHER)
    assert {worker.resident_bytes for worker in bench.engine.fleet} == {999}
    assert not bench.engine.planner.estimated_s(KIND, OTHER, "denoise", next(iter(_shapes(bench))))
    # and it can come back
    await loaded(bench)
    await assert_makes(bench, OTHER)
    await assert_clean(bench)


def _shapes(bench: Bench) -> Any:
    return [run.shape for run in bench.engine.planner._state.profile.costs[KIND, "toy", "denoise"].records]


async def test_what_is_not_done_within_the_bound_is_cancelled(start: Start) -> None:
    bench = await start(("denoise", "hang"), models=BOTH, drain_timeout_s=0.05, stall_timeout_s=0.5)
    held = bench.posted(model=OTHER)
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    assert (await unload(bench)).status == 202
    response = await held
    assert (response.status, (await error_of(response))["code"]) == (503, "model_unloaded")
    assert response.headers["X-Should-Retry"] == "false"
    # its worker hangs, which is found out; only then is all of it gone
    await gone(bench)
    assert bench.engine.book.statistics()["requests_cancelled"] == 1
    await assert_makes(bench)
    await assert_nothing_of(bench, OTHER)


@pytest.mark.parametrize("fate", ["describe", "load:decode", "warm:denoise"])
async def test_a_model_can_be_unloaded_while_it_loads(start: Start, fate: str) -> None:
    bench = await start()
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    bench.fleet.fates.add(fate, "hold")
    waiting = asyncio.create_task(load(bench, wait=True))
    await until(lambda: not bench.fleet.fates._fates, "held")
    assert (await unload(bench)).status == 202
    response = await waiting
    assert (response.status, (await error_of(response))["code"]) == (404, "model_not_found")
    await assert_makes(bench)
    bench.fleet.release.set()
    await gone(bench)
    await assert_nothing_of(bench, OTHER)
    await loaded(bench)
    await assert_makes(bench, OTHER)


async def test_late_answers_of_a_first_load_are_none_of_the_second(start: Start) -> None:
    bench = await start(placement=SPLIT)
    # cpu-1 loads for a long time while cpu-0 fails
    bench.fleet.fates.add("load:denoise", "hold")
    bench.fleet.fates.add("load:decode", "fail")
    await load(bench)
    await comes_to(bench, "failed")
    # loaded again, while the answer of cpu-1 to the first load is still to come
    bench.fleet.fates.add("load:denoise", "fail")
    assert (await load(bench)).status == 202
    assert (await shown(bench))["status"] == "loading"
    assert len(heard(bench, Describe)) == 1
    bench.fleet.fates.take("load:denoise")
    bench.fleet.release.set()
    await comes_to(bench, "ready")
    assert len(heard(bench, Describe)) == 2
    await assert_makes(bench, OTHER)
    await assert_clean(bench)


@pytest.mark.parametrize("fate", ["die", "hold"])
async def test_a_worker_that_is_lost_while_it_forgets(start: Start, fate: str) -> None:
    bench = await start(("forget", fate), models=BOTH)
    await until(lambda: all(len(worker.resident) == 6 for worker in bench.engine.fleet))
    await unload(bench)
    if fate == "hold":
        await until(lambda: len(heard(bench, ForgetModel)) == 2)
        assert (await shown(bench))["status"] == "unloading"
        (slow,) = await _left_to_forget(bench)
        bench.fleet.kill(slow)
    await gone(bench)
    await until(lambda: all(len(worker.resident) == 3 for worker in bench.engine.fleet))
    await assert_nothing_of(bench, OTHER)


async def _left_to_forget(bench: Bench) -> set[str]:
    told = bench.engine.roster.get(OTHER).told
    await until(lambda: len(told) == 1)
    return told


async def test_a_worker_killed_under_a_model_that_leaves(start: Start) -> None:
    bench = await start(("denoise", "die"), models=BOTH)
    bench.fleet.fates.add("text_encoder", "hold")
    held = bench.posted(model=OTHER, seed=3)
    await until(lambda: any(job.state == "encoding" for job in bench.engine.book))
    await unload(bench)
    bench.fleet.release.set()
    # it is still made: on the other worker, or by the one that comes back
    response = await held
    assert response.status == 200
    assert base64.b64decode((await response.json())["data"][0]["b64_json"]) == picture_of(3, model=OTHER)
    await gone(bench)
    await assert_makes(bench)
    await assert_nothing_of(bench, OTHER)


async def test_the_models_of_the_start_can_be_unloaded_too(start: Start) -> None:
    bench = await start(models=BOTH)
    await unload(bench, "toy")
    await gone(bench, "toy")
    assert (await (await bench.client.get("/ready")).json())["models"] == [OTHER]
    response = await bench.post()
    error = await error_of(response)
    assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    await assert_makes(bench, OTHER)
    await unload(bench)
    await gone(bench)
    # nothing is served, and nothing is missing of what should be
    assert (await bench.client.get("/ready")).status == 200
    assert bench.n_files == 0
    # back by name, it is again what a request without a name gets; its failure is its own now
    bench.fleet.fates.add("load:decode", "fail")
    assert (await load(bench, "toy", wait=True)).status == 500
    assert not bench.engine.failed.done()
    await loaded(bench, "toy")
    await assert_makes(bench)
    await assert_clean(bench)


async def test_the_last_one_that_loads_at_start_can_be_taken_away(start: Start) -> None:
    bench = await start(wait_ready=False, models=("toy",))
    assert (await unload(bench, "toy")).status == 202
    await gone(bench, "toy")
    assert bench.engine.ready.is_set()
    await loaded(bench)
    await assert_makes(bench, OTHER)


# the rest


async def test_a_stopping_gateway_loads_and_unloads_nothing(start: Start) -> None:
    bench = await start(models=BOTH)
    bench.fleet.fates.add("load:denoise", "hold")
    waiting = asyncio.create_task(load(bench, "toy-third", wait=True))
    await until(lambda: heard(bench, LoadStages, "toy-third"))
    bench.engine.refuse(ShuttingDown("the gateway is stopping"))
    responses = [
        await waiting,
        await load(bench, "toy-third"),
        await load(bench, "toy"),
        await unload(bench),
    ]
    for response in responses:
        assert (response.status, (await error_of(response))["code"]) == (503, "shutting_down")


async def test_only_an_admin_loads_and_unloads(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    store_keys(
        file,
        (
            ApiKey(name="alice", sha256=digest_of("client-key")),
            ApiKey(name="root", sha256=digest_of("admin-key"), scope="admin"),
        ),
    )
    bench = await start(api_keys=file)
    url = f"/v1/models/{OTHER}"
    alice, root = ({"Authorization": f"Bearer {key}"} for key in ("client-key", "admin-key"))
    for method in ("POST", "DELETE"):
        assert (await bench.client.request(method, url)).status == 401
        assert (await bench.client.request(method, url, headers=alice)).status == 403
    assert (await bench.client.get("/v1/models", headers=alice)).status == 200
    assert (await bench.client.post(url, headers=root)).status == 202
    await comes_to(bench, "ready")
    assert (await bench.client.get(url, headers=alice)).status == 200
    assert (await bench.client.delete(url, headers=root)).status == 202


async def test_the_journal_tells_of_models(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    bench = await start(journal=file)
    bench.fleet.fates.add("load:decode", "fail")
    await load(bench, wait=True)
    await loaded(bench)
    await unload(bench)
    await gone(bench)
    bench.engine.accounts._journal.__exit__(None, None, None)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    told = [(e["model"], e["status"]) for e in events if e["event"] == "model"]
    statuses = ["loading", "failed", "loading", "ready", "unloading", "gone"]
    assert told == [("toy", "ready"), *((OTHER, status) for status in statuses)]


async def test_warm_ups_of_a_model_that_leaves_are_cancelled(start: Start) -> None:
    bench = await start(n_workers=1)
    bench.fleet.fates.add("warm:denoise", "hold")
    await load(bench)
    await until(lambda: not bench.fleet.fates._fates)
    await unload(bench)
    await gone(bench)
    warm_up = [
        m
        for m in bench.fleet.heard["cpu-0"]
        if isinstance(m, RunTask) and m.model == OTHER and m.stages == ("denoise",)
    ]
    assert bench.fleet.cancels() == [warm_up[-1].task_id]
    await assert_nothing_of(bench, OTHER)


def test_the_table_of_statuses() -> None:
    assert set(NEXT) == set(Status)
    served = ServedModel("toy", MODEL)
    assert not served.settled.is_set()
    for event, status in (
        (Event.FAIL, Status.FAILED),
        (Event.LOAD, Status.LOADING),
        (Event.LOADED, Status.READY),
        (Event.UNLOAD, Status.UNLOADING),
    ):
        served.advance(event, "because")
        assert (served.status, served.reason) == (status, "because")
        assert served.settled.is_set() == (status is not Status.LOADING)
    for event in Event:
        with pytest.raises(InternalError):
            served.advance(event)
    assert served.status is Status.UNLOADING
    assert len(STAGES) == 3
