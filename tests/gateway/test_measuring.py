"""A model is measured once for each kind of device before it is ready, and kept for the next start."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from gateway.profiles import Kept
from gateway.terms import Terms
from planner.profile import Profile
from planner.types import ModelView, Shape
from tests.gateway import scripted
from tests.gateway.conftest import MODEL, OTHER, Bench, Start, until
from tests.gateway.test_models import loaded, unload
from tests.gateway.toy import STAGES
from wire.to_gateway import StagesLoaded
from wire.to_worker import LoadStages, MeasureProfile, RunTask, UseKernels

Choice = tuple[Literal["triton", "torch"], tuple[int, ...]]

KIND = "scripted, threads 1"
SHAPE = Shape(128, 128)


def orders(bench: Bench) -> list[tuple[str, MeasureProfile]]:
    """Who was told to measure what."""
    return [(w, m) for w, heard in bench.fleet.heard.items() for m in heard if isinstance(m, MeasureProfile)]


def profile(bench: Bench) -> Profile:
    return bench.engine.planner._state.profile


def view(bench: Bench, model: str = "toy") -> ModelView:
    return bench.engine.planner.models[model]


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "profiles").glob("*"))


async def ready(bench: Bench) -> None:
    await until(bench.engine.ready.is_set, "ready")


async def test_one_worker_of_each_kind_measures_before_it_loads(start: Start, tmp_path: Path) -> None:
    bench = await start(profile="auto")
    [(worker, order)] = orders(bench)
    sizes = [(g.width_px, g.height_px, g.guidance_scale) for g in order.generations]
    assert sizes == [(128, 128, 4.0), (64, 64, 4.0), (192, 192, 4.0), (256, 256, 4.0), (128, 128, 1.0)]
    assert {g.num_inference_steps for g in order.generations} == {MODEL.default_steps}
    assert (order.bound_s, order.batches) == (20.0, (1, 2, 4))
    kinds = [type(message) for message in bench.fleet.heard[worker]]
    assert kinds.index(MeasureProfile) < kinds.index(LoadStages)
    known = profile(bench)
    assert known.stage_s(KIND, view(bench), "decode", SHAPE, 1) == pytest.approx(128 * 128e-6)
    assert known.peak_bytes(KIND, view(bench), "decode", SHAPE) == 163_840
    assert known.resume_s(KIND, view(bench)) == 0.25
    assert view(bench).weight_bytes == dict(zip(STAGES, (100, 200, 300), strict=True))
    [file] = files(tmp_path)
    assert file.name.startswith("toy.scripted-threads-1.")
    assert msgspec.json.decode(file.read_bytes(), type=Kept).key.model == "toy"


async def test_the_deadline_of_the_first_request_comes_from_what_was_measured(start: Start) -> None:
    bench = await start(profile="auto")
    # encode and decode once, the loop four times, all times 2.5
    deadline_s = bench.engine.planner.deadline_s("toy", STAGES, SHAPE, 4, 0.0, Terms())
    assert deadline_s == pytest.approx(2.5 * 6 * 128 * 128e-6)


async def test_it_is_not_ready_until_it_is_measured_while_others_go_on_warming_up(start: Start) -> None:
    bench = await start(("measure", "hold"), profile="auto", wait_ready=False)
    await until(lambda: orders(bench))
    [(measuring, _)] = orders(bench)
    other = next(worker for worker in bench.fleet.heard if worker != measuring)
    await until(lambda: len(bench.engine.fleet[other].resident) == 3)
    assert not bench.engine.ready.is_set()
    response = await bench.client.get("/ready")
    assert response.status == 503
    assert f"the stages of toy are being measured on {measuring}" in await response.text()
    assert not any(isinstance(message, RunTask) for message in bench.fleet.heard[measuring])
    bench.fleet.release.set()
    await ready(bench)
    assert (await bench.post()).status == 200


async def test_the_next_start_reads_it(start: Start, tmp_path: Path) -> None:
    first = await start(profile="auto")
    await until(lambda: files(tmp_path))
    assert len(orders(first)) == 1
    first.fleet.heard.clear()
    again = await start(profile="auto", name="again")
    assert not orders(again)
    assert profile(again).measurements == profile(first).measurements
    assert view(again).load_s.keys() == set(STAGES)


def told(bench: Bench) -> dict[str, list[dict[str, Choice]]]:
    """What each worker was told of kernels."""
    return {
        worker: [message.chosen for message in heard if isinstance(message, UseKernels)]
        for worker, heard in bench.fleet.heard.items()
    }


async def test_every_worker_is_told_the_fastest_way_of_calls_before_it_has_requests(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, Choice] = {"attention d64": ("triton", (128, 64)), "decode": ("torch", ())}
    monkeypatch.setattr(scripted, "KERNELS", chosen)
    bench = await start(profile="auto")
    assert list(told(bench).values()) == [[chosen], [chosen]]
    # a process that is started anew has to be told again, before anything else that it is told to do
    worker = bench.engine.fleet["cpu-0"]
    bench.engine.kill(worker, "for the test")
    await until(lambda: worker.n_exits == 1 and worker.is_up and told(bench)["cpu-0"][1:])
    assert told(bench)["cpu-0"] == [chosen, chosen]
    await until(lambda: files(tmp_path))
    # the next start reads it, and another model's measurement changes nothing that was chosen
    monkeypatch.setattr(scripted, "KERNELS", {"attention d64": ("torch", ()), "norm": ("triton", ())})
    bench.fleet.heard.clear()
    again = await start(profile="auto", name="again")
    assert list(told(again).values()) == [[chosen], [chosen]]
    await loaded(again)
    await until(lambda: all(len(each) == 2 for each in told(again).values()))
    assert [each[1] for each in told(again).values()] == [{"norm": ("triton", ())}] * 2


async def test_pictures_made_with_other_kernels_have_another_profile(start: Start, tmp_path: Path) -> None:
    await start(profile="auto")
    await until(lambda: files(tmp_path))
    other = await start(profile="auto", name="again", kernels="torch")
    assert len(orders(other)) == 1
    await until(lambda: len(files(tmp_path)) == 2)


@pytest.mark.parametrize("damage", ["cut", "foreign", "edited", "another_model"])
async def test_a_file_that_is_not_to_be_trusted_is_measured_anew_and_said_so(
    start: Start, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    await start(profile="auto")
    await until(lambda: files(tmp_path))
    [file] = files(tmp_path)
    whole = file.read_bytes()
    content = json.loads(whole)
    match damage:
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
        case "foreign":
            content["key"]["versions"]["torch"] = "0.1"
        case "edited":
            content["measurements"]["measured"][0]["seconds"] = -1
        case _:
            content["measurements"]["model"] = "another"
    if damage != "cut":
        file.write_text(json.dumps(content))
    again = await start(profile="auto", name="again")
    assert len(orders(again)) == 1
    await until(lambda: files(tmp_path) and files(tmp_path)[0].read_bytes() == whole)
    assert [r for r in caplog.records if r.levelno == logging.WARNING and "measured anew" in r.message]


async def test_fresh_measures_though_there_is_a_profile_and_off_never_does(
    start: Start, tmp_path: Path
) -> None:
    await start(profile="auto")
    await until(lambda: files(tmp_path))
    fresh = await start(profile="fresh", name="fresh")
    assert len(orders(fresh)) == 1
    off = await start(profile="off", name="off")
    assert not orders(off)
    assert not profile(off).measurements


@pytest.mark.parametrize("fate", ["fail", "lie", "nonsense"])
async def test_what_cannot_be_measured_is_served_without_a_profile(
    start: Start, tmp_path: Path, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = await start(("measure", fate), profile="auto")
    assert (await bench.post()).status == 200
    assert not profile(bench).measurements
    assert files(tmp_path) == []
    assert [
        r for r in caplog.records if r.levelno == logging.ERROR and "served without a profile" in r.message
    ]


async def test_a_worker_that_dies_measuring_is_replaced_once(start: Start, tmp_path: Path) -> None:
    bench = await start(("measure", "die"), profile="auto")
    assert len(orders(bench)) == 2
    assert profile(bench).measurements.keys() == {(KIND, "toy")}


async def test_two_that_die_of_it_end_the_attempt(start: Start, tmp_path: Path) -> None:
    bench = await start(("measure", "die"), ("measure", "die"), profile="auto")
    assert len(orders(bench)) == 2
    assert not profile(bench).measurements
    assert (await bench.post()).status == 200


async def test_every_model_is_measured_and_one_that_comes_later_too(start: Start, tmp_path: Path) -> None:
    bench = await start(profile="auto")
    await loaded(bench)
    assert sorted(order.model for _, order in orders(bench)) == ["toy", OTHER]
    assert profile(bench).measurements.keys() == {(KIND, "toy"), (KIND, OTHER)}
    await until(lambda: len(files(tmp_path)) == 2)
    # gone and back, it is read
    assert (await unload(bench)).status == 202
    await until(lambda: OTHER not in bench.engine.planner.models)
    await until(lambda: all(served.name != OTHER for served in bench.engine.roster))
    await loaded(bench)
    assert len(orders(bench)) == 2


async def test_a_folder_that_cannot_be_written_is_said_and_costs_nothing_else(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    bench = await start(profile="auto", profiles=tmp_path / "file")
    assert (await bench.post()).status == 200
    await until(lambda: [r for r in caplog.records if "cannot be kept as" in r.message])


async def test_the_planner_sees_devices_and_weights_and_loads(start: Start) -> None:
    bench = await start(profile="off")
    assert {worker.view().device for worker in bench.engine.fleet} == {KIND}
    assert {worker.view().memory_bytes for worker in bench.engine.fleet} == {None}
    # as the worker that described it said
    assert view(bench).weight_bytes == {"text_encoder": 100, "denoise": 200, "decode": 300}
    assert view(bench).load_s == {}
    bench.engine.planner.loaded("toy", ("text_encoder", "decode"), 2.0)
    assert view(bench).load_s == {"text_encoder": 0.5, "decode": 1.5}
    for nonsense in (float("nan"), -1.0):
        bench.engine.planner.loaded("toy", ("decode",), nonsense)
    assert view(bench).load_s == {"text_encoder": 0.5, "decode": 1.5}


async def test_a_load_that_read_something_is_told_to_the_planner(start: Start) -> None:
    bench = await start(profile="off")
    worker = bench.engine.fleet["cpu-0"]
    loads = StagesLoaded(
        model="toy", stages=("decode",), load_s=3.0, resident_bytes=1, origins={"vae": "disk"}
    )
    held = msgspec.structs.replace(loads, load_s=0.001, origins={"vae": "held"})
    for message in (loads, held):
        bench.engine.roster.heard(worker, message)
    assert view(bench).load_s == {"decode": 3.0}
