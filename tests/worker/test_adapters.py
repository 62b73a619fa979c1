"""LoRA adapters: on for one loop, exact over workers and pauses, and the base is the same bits afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from diffusers.loaders import PeftAdapterMixin

from pipelines.errors import FieldRefused
from pipelines.families import check_fields
from tests.families.cases import (
    EMBEDDED,
    Case,
    Made,
    equal,
    holding,
    made_split,
    made_whole,
    make_case,
)
from tests.families.lora import fresh_denoiser, make_lora, make_saved_lora
from tests.families.sd3 import sd3
from tests.families.tiny import TINY
from tests.worker.driver import STAGES, Driver, make_task
from wire.generation import Adapter, Generation
from wire.handoff import HandoffStore
from wire.to_gateway import FailureKind, StepDone, TaskCancelled, TaskDone, TaskFailed, TaskPaused
from wire.to_worker import RunTask
from worker.adapters import AdapterCache
from worker.errors import AdapterRefused, StopAtBoundary
from worker.loop_tap import Capture
from worker.resident import ResidentModel
from worker.stages import StageRun
from worker.task_pipeline import run_whole


@dataclass(frozen=True)
class Adapted:
    """A model of whose worker objects none had seen an adapter when `base` was made."""

    case: Case
    base: Made
    first: Adapter
    second: Adapter

    def on(self, adapter: Adapter | None, scale: float = 1.0) -> Generation:
        """The case's request with `adapter`."""
        if adapter is not None:
            adapter = msgspec.structs.replace(adapter, scale=scale)
        return msgspec.structs.replace(self.case.generation, adapter=adapter)


def _adapted(case: Case, folder: Path) -> Adapted:
    return Adapted(
        case=case,
        base=made_whole(case, case.generation),
        first=make_lora(case.model, folder / "one", "first", seed=1),
        second=make_saved_lora(case.model, folder / "two", "second", seed=2, alpha=2),
    )


@pytest.fixture(scope="module", params=["sd3", "flux", "wan", "sdxl", EMBEDDED])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = tmp_path_factory.mktemp(request.param)
    return _adapted(make_case(request.param, folder / "model"), folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = tmp_path_factory.mktemp("sd3")
    return _adapted(make_case("sd3", folder / "model"), folder)


def _latents(resident: ResidentModel, generation: Generation) -> torch.Tensor:
    latents: torch.Tensor = run_whole(resident, generation).get("latents")
    return latents


def _peft_names(resident: ResidentModel) -> set[str]:
    denoiser = getattr(resident.pipe, "unet", None) or resident.pipe.transformer
    return set(getattr(denoiser, "peft_config", {}))


def test_split_paused_and_whole_are_equal_with_an_adapter(adapted: Adapted) -> None:
    case = adapted.case
    for adapter in (adapted.first, adapted.second):
        expected = made_whole(case, adapted.on(adapter))
        assert not torch.allclose(expected[0], adapted.base[0], atol=1e-2)
        assert equal(made_split(case, adapted.on(adapter)), expected)
        assert equal(made_split(case, adapted.on(adapter), pause_at=(1, 3)), expected)
        # the base, between two adapters and behind them
        assert equal(made_split(case, case.generation), adapted.base)
        assert equal(made_whole(case, case.generation), adapted.base)


def test_two_in_turns_are_as_each_alone(adapted: Adapted) -> None:
    alone = [
        _latents(holding(adapted.case.model), adapted.on(adapter))
        for adapter in (adapted.first, adapted.second)
    ]
    for _ in range(2):
        for adapter, expected in zip((adapted.first, adapted.second), alone, strict=True):
            assert torch.equal(_latents(adapted.case.whole, adapted.on(adapter)), expected)


def test_the_scale_is_the_requests(adapted: Adapted) -> None:
    whole = adapted.case.whole
    full, half, none = (_latents(whole, adapted.on(adapted.first, scale)) for scale in (1.0, 0.5, 0.0))
    assert not torch.allclose(full, half, atol=1e-2)
    assert not torch.allclose(half, none, atol=1e-2)
    assert torch.allclose(none, adapted.base[0], atol=1e-5)
    # the scale of the run before does not stay
    assert torch.equal(_latents(whole, adapted.on(adapted.first)), full)


def test_an_adapter_is_the_product_added_to_the_weights(tiny: Adapted) -> None:
    """Against arithmetic of our own on a model that saw no adapter. `second` has alpha 2 and rank 4."""
    for adapter, scaling in ((tiny.first, 0.5), (tiny.second, 0.5 * 2 / 4)):
        merged = holding(tiny.case.model)
        files = [*Path(adapter.source).parent.glob(Path(adapter.source).name)]
        file = files[0] if files[0].is_file() else next(files[0].glob("*.safetensors"))
        halves = safetensors.torch.load_file(file)
        for key, down in halves.items():
            if key.endswith("lora_A.weight"):
                layer = key.removesuffix(".lora_A.weight")
                up = halves[f"{layer}.lora_B.weight"]
                weight = merged.pipe.transformer.get_submodule(layer.removeprefix("transformer.")).weight
                weight.data += scaling * (up @ down)
        ours = _latents(merged, tiny.case.generation)
        theirs = _latents(tiny.case.whole, tiny.on(adapter, 0.5))
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, tiny.base[0], atol=1e-2)


@pytest.mark.parametrize("leave", [StopAtBoundary(1), RuntimeError("a family's own code")])
def test_what_leaves_the_loop_takes_the_adapter_off(
    tiny: Adapted, leave: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    case = tiny.case

    def raise_it(done: int, steps: int, capture: Capture) -> None:
        if done == 1:
            raise leave

    run = StageRun(case.whole, tiny.on(tiny.first))
    run.run("text_encoder")
    with pytest.raises(type(leave)):
        run.run("denoise", raise_it)
    assert equal(made_whole(case, case.generation), tiny.base)


def test_loops_of_one_batch_share_an_adapter(tiny: Adapted) -> None:
    """The first that ends leaves it on for the others; another adapter beside it is a fault of ours."""
    whole = tiny.case.whole
    expected = _latents(whole, tiny.on(tiny.first))
    with whole.adapted(tiny.first):
        with whole.adapted(tiny.first):
            pass
        assert torch.equal(_latents(whole, tiny.on(tiny.first)), expected)
        for other in (None, tiny.second):
            with pytest.raises(AssertionError), whole.adapted(other):
                pass
    assert equal(made_whole(tiny.case, tiny.case.generation), tiny.base)


def test_only_the_loop_stage_needs_the_adapter(tiny: Adapted) -> None:
    """A worker that does not denoise never opens the file."""
    nowhere = tiny.on(Adapter(name="nowhere", source="/nowhere.safetensors"))
    run = StageRun(tiny.case.alone["text_encoder"], nowhere)
    run.run("text_encoder")
    with pytest.raises(AdapterRefused, match=r"'nowhere': there is no file"):
        StageRun(tiny.case.alone["denoise"], nowhere, run.payload("text_encoder")).run("denoise")


def _missing(tiny: Adapted, folder: Path) -> Path:
    return folder / "absent.safetensors"


def _pickle(tiny: Adapted, folder: Path) -> Path:
    file = folder / "adapter.bin"
    torch.save(safetensors.torch.load_file(tiny.first.source), file)
    return file


def _pickles_in_a_folder(tiny: Adapted, folder: Path) -> Path:
    _pickle(tiny, folder)
    return folder


def _two_in_a_folder(tiny: Adapted, folder: Path) -> Path:
    for name in ("a", "b"):
        safetensors.torch.save_file(
            safetensors.torch.load_file(tiny.first.source), folder / f"{name}.safetensors"
        )
    return folder


def _no_safetensors(tiny: Adapted, folder: Path) -> Path:
    file = folder / "adapter.safetensors"
    file.write_bytes(b"nothing of the kind")
    return file


def _changed(tiny: Adapted, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = safetensors.torch.load_file(tiny.first.source)
    change(tensors)
    file = folder / "adapter.safetensors"
    safetensors.torch.save_file(tensors, file)
    return file


_UP = "transformer.transformer_blocks.0.attn.to_q.lora_B.weight"


def _wrong_shape(tiny: Adapted, folder: Path) -> Path:
    return _changed(tiny, folder, lambda tensors: tensors.update({_UP: torch.ones(48, 4)}))


def _half(tiny: Adapted, folder: Path) -> Path:
    return _changed(tiny, folder, lambda tensors: tensors.pop(_UP))


def _no_such_layer(tiny: Adapted, folder: Path) -> Path:
    return _changed(
        tiny, folder, lambda tensors: tensors.update({_UP.replace("blocks.0", "blocks.7"): torch.ones(32, 4)})
    )


def _other_model(tiny: Adapted, folder: Path) -> Path:
    return _changed(
        tiny, folder, lambda tensors: tensors.update({"text_encoder.q.lora_A.weight": torch.ones(4, 4)})
    )


def _no_lora(tiny: Adapted, folder: Path) -> Path:
    file = folder / "adapter.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2)}, file)
    return file


def _empty(tiny: Adapted, folder: Path) -> Path:
    file = folder / "adapter.safetensors"
    safetensors.torch.save_file({}, file)
    return file


def _metadata_of_another_rank(tiny: Adapted, folder: Path) -> Path:
    file = folder / "adapter.safetensors"
    metadata = {
        "lora_adapter_metadata": '{"transformer.r": 7, "transformer.target_modules": ["to_q", "to_v"]}'
    }
    safetensors.torch.save_file(safetensors.torch.load_file(tiny.first.source), file, metadata)
    return file


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_missing, "there is no file"),
        (_pickle, "no safetensors file"),
        (_pickles_in_a_folder, "holds 0 safetensors files"),
        (_two_in_a_folder, "holds 2 safetensors files"),
        (_no_safetensors, "no safetensors file"),
        (_wrong_shape, r"\[4, 32\] and \[48, 4\] do not fit transformer_blocks.0.attn.to_q"),
        (_half, "only one half"),
        (_no_such_layer, "no layer transformer_blocks.7"),
        (_other_model, "text_encoder"),
        (_no_lora, "w is no LoRA key"),
        (_empty, "holds no LoRA keys"),
        (_metadata_of_another_rank, "cannot be loaded"),
    ],
)
def test_what_is_no_adapter_of_this_model_is_refused(
    tiny: Adapted, tmp_path: Path, make: Callable[[Adapted, Path], Path], reason: str
) -> None:
    before = _peft_names(tiny.case.whole)
    adapter = Adapter(name="bad one", source=str(make(tiny, tmp_path)))
    with pytest.raises(AdapterRefused, match=reason) as refused:
        run_whole(tiny.case.whole, tiny.on(adapter))
    assert "'bad one'" in str(refused.value)
    assert _peft_names(tiny.case.whole) == before
    assert equal(made_whole(tiny.case, tiny.case.generation), tiny.base)
    assert equal(made_split(tiny.case, tiny.on(tiny.first)), made_whole(tiny.case, tiny.on(tiny.first)))


def test_a_bounded_number_stays_loaded(tiny: Adapted, tmp_path: Path) -> None:
    others = [make_lora(tiny.case.model, tmp_path, f"other{n}", seed=10 + n) for n in range(3)]
    name, denoiser = fresh_denoiser(tiny.case.model)
    cache = AdapterCache(capacity=2)
    seen = []
    for adapter in (others[0], others[1], others[0], others[2], others[0]):
        with cache.put_on({name: denoiser}, adapter):
            assert denoiser.active_adapters() != []
        seen.append(set(denoiser.peft_config))
    assert [len(held) for held in seen] == [1, 2, 2, 2, 2]
    # the second went, because the first had been used since
    assert seen[3] == seen[4]
    assert len(seen[1] - seen[3]) == 1
    assert seen[0] <= seen[4]


def test_room_for_one_gives_the_same_pictures(tiny: Adapted, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [_latents(tiny.case.whole, tiny.on(adapter)) for adapter in (tiny.first, tiny.second)]
    resident = holding(tiny.case.model)
    monkeypatch.setattr(resident, "_adapters", AdapterCache(capacity=1))
    for _ in range(2):
        for adapter, latents in zip((tiny.first, tiny.second), expected, strict=True):
            assert torch.equal(_latents(resident, tiny.on(adapter)), latents)
            assert len(_peft_names(resident)) == 1
        assert torch.equal(_latents(resident, tiny.case.generation), tiny.base[0])


def test_an_evicted_denoiser_takes_its_adapters_along(tiny: Adapted) -> None:
    expected = _latents(tiny.case.whole, tiny.on(tiny.first))
    resident = holding(tiny.case.model)
    fresh_bytes = resident.resident_bytes
    _latents(resident, tiny.on(tiny.second))
    assert resident.resident_bytes > fresh_bytes
    resident.evict(("denoise",))
    resident.load(("denoise",))
    assert resident.resident_bytes == fresh_bytes
    assert _peft_names(resident) == set()
    assert torch.equal(_latents(resident, tiny.case.generation), tiny.base[0])
    assert torch.equal(_latents(resident, tiny.on(tiny.first)), expected)
    assert len(_peft_names(resident)) == 1


def test_of_two_denoisers_the_keys_say_which(tiny: Adapted) -> None:
    """As in Wan 2.2, whose two networks share a loop. A file without names could be about either."""
    denoisers = {name: fresh_denoiser(tiny.case.model)[1] for name in ("transformer", "transformer_2")}
    cache = AdapterCache()
    with cache.put_on(denoisers, tiny.first):
        assert hasattr(denoisers["transformer"], "peft_config")
        assert not hasattr(denoisers["transformer_2"], "peft_config")
    refused = pytest.raises(AdapterRefused, match="one of transformer, transformer_2")
    with refused, cache.put_on(denoisers, tiny.second):
        pass


def test_a_replaced_file_is_another_adapter(tiny: Adapted, tmp_path: Path) -> None:
    adapter = make_lora(tiny.case.model, tmp_path, "replaced", seed=20)
    before = _latents(tiny.case.whole, tiny.on(adapter))
    make_lora(tiny.case.model, tmp_path, "replaced", seed=21)
    status = os.stat(adapter.source)
    os.utime(adapter.source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not torch.allclose(_latents(tiny.case.whole, tiny.on(adapter)), before, atol=1e-3)


@pytest.fixture
def driver(tiny: Adapted, tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(HandoffStore(tmp_path / "store", node="here", capacity_bytes=10_000_000))
    driver.load(tiny.case.model, *STAGES)
    yield driver
    driver.close()


def _task(task_id: str, generation: Generation, *stages: str, **changes: Any) -> RunTask:
    return make_task(task_id, *(stages or STAGES), generation=generation, **changes)


def _picture(driver: Driver, task: RunTask) -> bytes:
    driver.loop.submit(task)
    return driver.store.get(driver.until(TaskDone).output)


def test_a_worker_survives_a_bad_adapter_and_a_cancelled_one(driver: Driver, tiny: Adapted) -> None:
    base = _picture(driver, _task("base", tiny.on(None)))
    adapted = _picture(driver, _task("adapted", tiny.on(tiny.first)))
    assert adapted != base
    driver.loop.submit(_task("bad", tiny.on(Adapter(name="lost", source="/nowhere.safetensors"))))
    failed = driver.until(TaskFailed)
    assert failed.stage == "denoise"
    assert "'lost': there is no file" in failed.reason
    assert _picture(driver, _task("base-again", tiny.on(None))) == base
    long = msgspec.structs.replace(tiny.on(tiny.second), num_inference_steps=500)
    driver.loop.submit(_task("long", long))
    driver.until(StepDone)
    driver.loop.cancel("long")
    driver.until(TaskCancelled)
    assert _picture(driver, _task("base-at-last", tiny.on(None))) == base
    assert _picture(driver, _task("adapted-at-last", tiny.on(tiny.first))) == adapted


def test_a_paused_task_has_its_adapter_again_when_it_goes_on(driver: Driver, tiny: Adapted) -> None:
    generation = msgspec.structs.replace(tiny.on(tiny.first), num_inference_steps=60)
    expected = _picture(driver, _task("whole", generation))
    base = _picture(driver, _task("base", tiny.on(None)))
    driver.loop.submit(_task("encode", generation, "text_encoder"))
    handoff = driver.until(TaskDone).output
    driver.loop.submit(_task("paused", generation, "denoise", "decode", handoff=handoff))
    driver.until(StepDone)
    driver.loop.pause("paused")
    paused = driver.until(TaskPaused, TaskDone)
    assert isinstance(paused, TaskPaused)
    assert _picture(driver, _task("between", tiny.on(None))) == base
    resumed = _task("resumed", generation, "denoise", "decode", handoff=handoff, checkpoint=paused.checkpoint)
    assert _picture(driver, resumed) == expected


def test_what_the_family_cannot_do_is_the_requests_fault(
    driver: Driver, tiny: Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.resident.DENOISERS", ())
    driver.loop.submit(_task("refused", tiny.on(tiny.first)))
    failed = driver.until(TaskFailed)
    assert failed.kind is FailureKind.INPUT
    assert "LoRA" in failed.reason


def test_a_denoiser_without_adapters_refuses_the_field() -> None:
    adapter = Adapter(name="any", source="/nowhere.safetensors")
    for denoisers in ({}, {"transformer": torch.nn.Linear(2, 2)}):
        with pytest.raises(FieldRefused) as refused, AdapterCache().put_on(denoisers, adapter):
            pass
        assert refused.value.field == "lora"


@pytest.mark.parametrize("name", TINY)
def test_the_family_table_says_who_takes_adapters(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = TINY[name](tmp_path_factory.mktemp(name))
    family = model.family_table
    _, denoiser = fresh_denoiser(model)
    assert isinstance(denoiser, PeftAdapterMixin) == family.takes_lora
    unable = msgspec.structs.replace(family, takes_lora=False)
    with pytest.raises(FieldRefused) as refused:
        check_fields(unable, guidance_scale=3.5, negative_prompt=None, lora="any")
    assert refused.value.field == "lora"


def test_loaded_in_bf16_the_base_keeps_its_types(tmp_path: Path) -> None:
    """Loading an adapter changes no type of the base, which may hold some parts in float32 on purpose."""
    model = sd3(tmp_path / "model")
    adapter = make_lora(model, tmp_path, "lora", seed=1)
    _, denoiser = fresh_denoiser(model)
    denoiser.to(torch.bfloat16).norm_out.to(torch.float32)
    before = [(key, value.clone()) for key, value in denoiser.state_dict().items()]
    with AdapterCache().put_on({"transformer": denoiser}, adapter):
        pass
    after = {key.replace(".base_layer", ""): value for key, value in denoiser.state_dict().items()}
    for key, value in before:
        assert after[key].dtype == value.dtype
        assert torch.equal(after[key], value)
    halves = [value for key, value in after.items() if ".lora_" in key]
    assert {value.dtype for value in halves} == {torch.bfloat16}
    assert not any(value.requires_grad for value in denoiser.parameters())
