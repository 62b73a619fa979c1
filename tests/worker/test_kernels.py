"""Kernels in a worker: attached as parts are loaded, chosen while a model is measured, told in heartbeats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernels.switch import Switch
from tests.kernels.interpreter import interpreted
from tests.worker.kernel_checks import CHECKS, CPU, resident_with
from worker.config import WorkerConfig


@pytest.mark.parametrize("name", CHECKS)
def test_interpreted(name: str) -> None:
    assert interpreted("tests.worker.kernel_checks")[name] == ""


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
