"""What one worker holds once, what it may hold, and what of it stays in host memory."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch

from pipelines.catalogue import Model
from tests.families.lora import make_lora
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES, Driver, load_stages, make_task
from wire.handoff import HandoffStore
from wire.to_gateway import LoadFailed, ModelForgotten, StagesLoaded, TaskDone
from wire.to_worker import EvictStages, ForgetModel
from worker.components import Components, n_bytes_of
from worker.host_folder import HostFolder
from worker.memory import give_back
from worker.resident import ResidentModel

CPU = torch.device("cpu")
SHARED = ("text_encoder", "text_encoder_2", "text_encoder_3", "vae")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return sd3(tmp_path / "one")


@pytest.fixture
def sibling(model: Model, tmp_path: Path) -> Model:
    """Another denoiser; the text encoders and the VAE are links to those of `model`."""
    other = sd3(tmp_path / "other")
    for part in SHARED:
        shutil.rmtree(Path(other.source, part))
        Path(other.source, part).symlink_to(Path(model.source, part))
    return other


@pytest.fixture
def host(tmp_path: Path) -> HostFolder:
    return HostFolder(tmp_path / "weights", 10**8)


@pytest.fixture
def worker(tmp_path: Path, host: HostFolder) -> Iterator[Driver]:
    """A device loop with host copies."""
    driver = started(tmp_path, host)
    yield driver
    driver.close()


def started(tmp_path: Path, host: HostFolder | None, memory_bytes: int | None = None) -> Driver:
    store = HandoffStore(tmp_path / "store", node="here", capacity_bytes=10_000_000)
    return Driver(store, Components(CPU, host, memory_bytes))


def load(driver: Driver, model: Model, *stages: str, name: str = "tiny") -> StagesLoaded:
    driver.loop.submit(load_stages(model, *stages, name=name))
    return driver.until(StagesLoaded)


def picture(driver: Driver, task_id: str, **changes: Any) -> bytes:
    driver.loop.submit(make_task(task_id, *STAGES, **changes))
    return driver.store.get(driver.until(TaskDone).output)


def forget(driver: Driver, name: str) -> ModelForgotten:
    driver.loop.submit(ForgetModel(model=name))
    return driver.until(ModelForgotten)


def test_parts_of_two_models_are_held_once(driver: Driver, model: Model, sibling: Model) -> None:
    first = load(driver, model, *STAGES)
    alone = picture(driver, "a")
    both = load(driver, sibling, *STAGES, name="other")
    assert both.origins == dict.fromkeys(SHARED, "held") | {"transformer": "disk"}
    models = driver.loop._models
    denoiser_bytes = n_bytes_of(models["other"].pipe.transformer)
    assert both.resident_bytes == first.resident_bytes + denoiser_bytes
    for part in SHARED:
        assert getattr(models["other"].pipe, part) is getattr(models["tiny"].pipe, part)
    assert models["other"].pipe.transformer is not models["tiny"].pipe.transformer
    of_other = picture(driver, "b", model="other")

    driver.loop.submit(EvictStages(model="tiny", stages=STAGES))
    assert load(driver, sibling, *STAGES, name="other").resident_bytes == first.resident_bytes
    assert picture(driver, "c", model="other") == of_other
    assert load(driver, model, *STAGES).origins == dict.fromkeys(SHARED, "held") | {"transformer": "disk"}
    assert picture(driver, "d") == alone
    assert forget(driver, "tiny").resident_bytes == first.resident_bytes
    assert picture(driver, "e", model="other") == of_other
    assert forget(driver, "other").resident_bytes == 0


def test_another_type_is_another_part(model: Model) -> None:
    components = Components(CPU)
    wide = ResidentModel("wide", model, CPU, components)
    spec = wide.pipe.get_component_spec("vae")
    first, second = components.load(spec, torch.float32), components.load(spec, torch.bfloat16)
    assert (first.origin, second.origin) == ("disk", "disk")
    assert components.load(spec, torch.float32).module is first.module


def test_adapters_of_two_models_on_one_denoiser(driver: Driver, model: Model, tmp_path: Path) -> None:
    """The base of one is the base after the other's adapters, and all count towards one bound."""
    loras = [make_lora(model, tmp_path, f"lora-{number}", seed=number) for number in range(10)]
    twin = msgspec.structs.replace(model, sampler="unipc-flow")
    load(driver, model, *STAGES)
    assert set(load(driver, twin, *STAGES, name="twin").origins.values()) == {"held"}
    base, other_base = picture(driver, "a"), picture(driver, "b", model="twin")
    plain = make_task("t").generation
    on = [msgspec.structs.replace(plain, adapter=adapter) for adapter in loras]
    adapted = picture(driver, "c", generation=on[0])
    assert adapted != base
    for number, generation in enumerate(on[1:]):
        name = ("twin", "tiny")[number % 2]
        picture(driver, f"d{number}", generation=generation, model=name)
    denoiser = driver.loop._models["tiny"].pipe.transformer
    assert len(denoiser.peft_config) == 8
    assert picture(driver, "e", model="twin") == other_base
    assert picture(driver, "f") == base
    assert picture(driver, "g", generation=on[0]) == adapted
    forget(driver, "tiny")
    assert picture(driver, "h", model="twin") == other_base


def test_loading_again_reads_nothing_from_disk(worker: Driver, model: Model) -> None:
    told = load(worker, model, *STAGES)
    assert set(told.origins.values()) == {"disk"}
    assert told.notes == ()
    assert told.host_bytes >= told.resident_bytes
    before = picture(worker, "a")
    os.rename(model.source, f"{model.source}-away")
    worker.loop.submit(EvictStages(model="tiny", stages=STAGES))
    again = load(worker, model, *STAGES)
    assert set(again.origins.values()) == {"host"}
    assert (again.resident_bytes, again.host_bytes) == (told.resident_bytes, told.host_bytes)
    assert picture(worker, "b") == before


def test_another_worker_needs_no_files(
    worker: Driver, host: HostFolder, model: Model, tmp_path: Path
) -> None:
    load(worker, model, *STAGES)
    before = picture(worker, "a")
    os.rename(model.source, f"{model.source}-away")
    second = started(tmp_path, host)
    try:
        assert set(load(second, model, *STAGES).origins.values()) == {"host"}
        assert picture(second, "b") == before
    finally:
        second.close()


def test_changed_files_are_not_served_stale(worker: Driver, model: Model) -> None:
    load(worker, model, *STAGES)
    before = picture(worker, "a")
    worker.loop.submit(EvictStages(model="tiny", stages=STAGES))
    file = next(Path(model.source, "transformer").glob("*.safetensors"))
    weights = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: tensor * 1.5 for name, tensor in weights.items()}, file)
    origins = load(worker, model, *STAGES).origins
    assert origins == dict.fromkeys(SHARED, "host") | {"transformer": "disk"}
    assert picture(worker, "b") != before


def test_copies_leave_with_the_last_model_that_needs_them(
    worker: Driver, host: HostFolder, model: Model, sibling: Model, tmp_path: Path
) -> None:
    alone = load(worker, model, *STAGES)
    both = load(worker, sibling, *STAGES, name="other")
    second = started(tmp_path, host)
    try:
        load(second, model, "decode")
        # the other model needs all of them but the denoiser
        assert forget(worker, "tiny").host_bytes < both.host_bytes
        assert set(load(worker, model, *STAGES).origins.items()) >= {("transformer", "disk"), ("vae", "held")}
        forget(worker, "tiny")
        left = forget(worker, "other").host_bytes
        assert 0 < left < alone.host_bytes
        assert forget(second, "tiny").host_bytes == 0
    finally:
        second.close()


def test_a_copy_that_does_not_fit_is_told(tmp_path: Path, model: Model) -> None:
    driver = started(tmp_path, HostFolder(tmp_path / "small", 1000))
    try:
        told = load(driver, model, *STAGES)
        assert len(told.notes) == len(told.origins)
        assert all(note.startswith("no host copy of ") and "1000" in note for note in told.notes)
        assert told.host_bytes == 0
        picture(driver, "a")
    finally:
        driver.close()


def test_a_part_that_cannot_be_made_again_is_held_as_it_was_loaded(
    worker: Driver, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.components.difference", lambda made, loaded: "it has another table")
    told = load(worker, model, "decode")
    assert told.notes == ("no host copy of vae: made again, it has another table",)
    assert told.host_bytes == 0


def test_what_passes_the_bound_is_refused(tmp_path: Path, model: Model) -> None:
    free = started(tmp_path, None)
    decode_bytes = load(free, model, "decode").resident_bytes
    free.close()
    driver = started(tmp_path, None, memory_bytes=decode_bytes)
    try:
        load(driver, model, "decode")
        driver.loop.submit(load_stages(model, "decode", "denoise"))
        reason = driver.until(LoadFailed).reason
        assert f"{decode_bytes} of the {decode_bytes} that this worker may hold are taken" in reason
        assert reason.startswith("tiny: transformer need")
        # what another model holds already costs nothing
        assert load(driver, model, "decode", name="twin").resident_bytes == decode_bytes
    finally:
        driver.close()


def test_memory_that_ran_out_while_loading_is_given_back(
    worker: Driver, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real allocations that fail: what was loaded before is gone, and the next load is as ever."""
    parts: list[weakref.ref[torch.nn.Module]] = []
    kind = type(ResidentModel("tiny", model, CPU).pipe.get_component_spec("text_encoder_3")).load

    def short(spec: object, **kwargs: object) -> torch.nn.Module:
        if spec.name == "text_encoder_3":  # type: ignore[attr-defined]
            try:
                torch.empty(1 << 60, dtype=torch.uint8)
            except RuntimeError as error:
                # as diffusers does it
                raise ValueError(f"Unable to load: {error}")  # noqa: B904
        part: torch.nn.Module = kind(spec, **kwargs)
        parts.append(weakref.ref(part))
        return part

    load(worker, model, "decode")
    with monkeypatch.context() as patch:
        patch.setattr("diffusers.modular_pipelines.modular_pipeline_utils.ComponentSpec.load", short)
        worker.loop.submit(load_stages(model, *STAGES))
        failed = worker.until(LoadFailed)
    assert failed.reason.startswith("tiny: text_encoder_3: out of memory: ")
    assert str(1 << 60) in failed.reason
    assert len(parts) == 2
    assert [part() for part in parts] == [None, None]
    assert worker.loop._models["tiny"].stages == {"decode"}
    load(worker, model, *STAGES)
    picture(worker, "a")


def test_evicted_parts_are_freed_at_once(worker: Driver, model: Model) -> None:
    load(worker, model, *STAGES)
    gone = weakref.ref(worker.loop._models["tiny"].pipe.transformer)
    worker.loop.submit(EvictStages(model="tiny", stages=("denoise",)))
    load(worker, model, "decode")
    assert gone() is None
    give_back(CPU)


def test_a_model_that_cannot_be_copied_is_served_from_its_folder(
    worker: Driver, model: Model, host: HostFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """A link to nowhere among its files; then more than is copied of one model."""
    Path(model.source, "lost.json").symlink_to("nowhere")
    load(worker, model, "decode")
    assert "is not copied" in caplog.text
    assert list(host.sources.iterdir()) == []
    forget(worker, "tiny")
    Path(model.source, "lost.json").unlink()
    with Path(model.source, "large.txt").open("wb") as large:
        large.truncate(1 << 30)
    load(worker, model, "decode")
    assert "bytes beside its weights" in caplog.text
    assert list(host.sources.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_the_copies_only(
    worker: Driver, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worker.host_folder.os.posix_fallocate", full)
    told = load(worker, model, *STAGES)
    assert len(told.notes) == len(told.origins)
    assert all("No space left" in note for note in told.notes)
    assert told.host_bytes == 0
    picture(worker, "a")
