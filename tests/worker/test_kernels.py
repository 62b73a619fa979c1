"""Kernels in a worker: attached as parts are loaded, chosen while a model is measured, told in heartbeats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernels.switch import Switch
from tests.families.sd3 import sd3
from tests.kernels.test_attention import run_interpreted
from worker.components import Components
from worker.config import WorkerConfig
from worker.resident import ResidentModel

CPU = torch.device("cpu")


def resident_with(switch: Switch | None, folder: Path) -> ResidentModel:
    resident = ResidentModel("tiny", sd3(folder), CPU, Components(CPU, switch=switch))
    resident.load(resident.stage_names)
    return resident


def check_measured(folder: str) -> None:
    """In "triton" a worker measures the calls of each stage, tells the choices, and takes others'."""
    from typing import Any

    import msgspec

    from kernels import attend
    from kernels.processors import JointAttention
    from kernels.switch import Choice
    from pipelines.catalogue import to_entry
    from planner.measurements import Measurements
    from tests.worker.driver import Driver
    from wire.generation import Generation
    from wire.handoff import HandoffStore
    from wire.to_gateway import ProfileMeasured
    from wire.to_worker import MeasureProfile, UseKernels

    switch = Switch("auto", CPU)
    assert switch.is_on
    # of each call only the first way: the interpreter is slow
    module: Any = attend
    candidates = module.candidates
    module.candidates = lambda *call: candidates(*call)[:1]
    model = sd3(Path(folder) / "model")
    store = HandoffStore(Path(folder) / "store", node="here", capacity_bytes=10_000_000)
    driver = Driver(store, Components(CPU, switch=switch))
    try:
        known = Choice("torch", (16, 16, 4, 1))
        driver.loop.submit(UseKernels(chosen={"attention float32 d16 q4 k4": known}))
        generation = Generation(
            prompt="a dog", width_px=32, height_px=32, num_inference_steps=2, guidance_scale=4.0, seed=3
        )
        driver.loop.submit(
            MeasureProfile(
                model="tiny", entry=to_entry(model), generations=(generation,), batches=(1,), bound_s=60.0
            )
        )
        found = msgspec.convert(driver.until(ProfileMeasured).profile, Measurements)
        # the transformer's call, and the decoder's, which another model had measured before
        assert set(found.kernels) >= {"attention float32 d8 q3 k3", "attention float32 d16 q4 k4"}
        assert found.kernels["attention float32 d16 q4 k4"] == ("torch", (16, 16, 4, 1))
        assert all(len(settings) in (0, 4, 7) for _, settings in found.kernels.values())
        assert {each.path for each in switch.counts()} <= {"torch", "triton"}
    finally:
        driver.close()
    resident = resident_with(Switch("triton", CPU), Path(folder) / "again")
    assert isinstance(resident.pipe.transformer.transformer_blocks[0].attn.processor, JointAttention)


def test_what_a_worker_measures_of_kernels(tmp_path: Path) -> None:
    run_interpreted(
        f"from tests.worker.test_kernels import check_measured; check_measured({str(tmp_path)!r})"
    )


def test_torch_is_diffusers_as_it_comes(tmp_path: Path) -> None:
    for number, switch in enumerate((None, Switch("torch", CPU))):
        resident = resident_with(switch, tmp_path / str(number))
        attn = resident.pipe.transformer.transformer_blocks[0].attn
        assert type(attn.processor).__name__ == "JointAttnProcessor2_0"
        assert "forward" not in vars(resident.pipe.vae.decoder)


def test_a_worker_told_to_use_triton_without_a_gpu_ends_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import __main__ as command

    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    threads = torch.get_num_threads()
    arguments = f"--worker-id w --device cpu --threads {threads} --endpoint ipc://{tmp_path}/x"
    told = [*arguments.split(), "--handoff", str(tmp_path), "--capacity-bytes", "1", "--kernels", "triton"]
    assert command._parse(told) == WorkerConfig(
        worker_id="w",
        device="cpu",
        threads=threads,
        endpoint=f"ipc://{tmp_path}/x",
        handoff=tmp_path,
        capacity_bytes=1,
        kernels="triton",
    )
    assert command.main(told) == 1
    assert "kernels triton: Triton has no cpu device" in capsys.readouterr().err


def test_a_check_is_made_with_the_kernels_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    from worker.check import main

    assert main(["triptych-emoji", "--device", "cpu", "--kernels", "triton"]) == 1
    assert "kernels triton: Triton has no cpu device" in capsys.readouterr().err
