"""What needs Triton's interpreter: see tests/kernels/interpreter.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from kernels import attend
from kernels.processors import JointAttention
from kernels.switch import Choice, Switch
from pipelines.catalogue import to_entry
from planner.measurements import Measurements
from tests.families.sd3 import sd3
from tests.worker.driver import Driver
from wire.generation import Generation
from wire.handoff import HandoffStore
from wire.to_gateway import ProfileMeasured
from wire.to_worker import MeasureProfile, UseKernels
from worker.components import Components
from worker.resident import ResidentModel

CPU = torch.device("cpu")


def resident_with(switch: Switch | None, folder: Path) -> ResidentModel:
    resident = ResidentModel("tiny", sd3(folder), CPU, Components(CPU, switch=switch))
    resident.load(resident.stage_names)
    return resident


def measured(_device: str) -> None:
    """In "triton" a worker measures the calls of each stage, tells the choices, and takes others'."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        switch = Switch("auto", CPU)
        assert switch.is_on
        # of each call only the first way: the interpreter is slow
        module: Any = attend
        candidates = module.candidates
        module.candidates = lambda *call: candidates(*call)[:1]
        model = sd3(folder / "model")
        store = HandoffStore(folder / "store", node="here", capacity_bytes=10_000_000)
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
        resident = resident_with(Switch("triton", CPU), folder / "again")
        assert isinstance(resident.pipe.transformer.transformer_blocks[0].attn.processor, JointAttention)


CHECKS: dict[str, Callable[[str], None]] = {"measured": measured}
