"""The check of a model: what passes, what is noticed, and that a file alone adds a model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch

import worker.self_check
from pipelines.catalogue import Model, load_catalogue
from tests.families.lora import make_lora
from tests.families.sd3 import sd3
from tests.families.tiny import TINY
from worker.check import main
from worker.packing import Payload, unpack
from worker.self_check import check_model, requests

ROOT = Path(__file__).parents[2]
Lines = list[tuple[str, str | None]]


def _checked(model: Model) -> tuple[bool, Lines]:
    lines: Lines = []
    passed = check_model(
        "tiny", model, torch.device("cpu"), lambda step, why, note: lines.append((step, why))
    )
    assert passed == all(why is None for _, why in lines)
    return passed, lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("sd3"))


def test_a_sound_model_passes_every_step(model: Model, tmp_path: Path) -> None:
    adapter = make_lora(model, tmp_path, "warm", seed=1)
    passed, lines = _checked(msgspec.structs.replace(model, adapters={"warm": adapter.source}))
    assert passed
    steps = ["derive", "derive", "load"]
    labels = ("text", "image", "text, lora warm", "text, tiled")
    steps += [f"{label}, whole" for label in labels]
    steps += [f"{label}, {way}" for label in labels for way in ("split", "resumed")]
    assert [step for step, _ in lines] == steps


def test_a_clip_passes(tmp_path: Path) -> None:
    passed, lines = _checked(TINY["wan"](tmp_path))
    assert passed
    assert ("text, resumed", None) in lines


def test_requests_are_small_and_accepted(model: Model) -> None:
    odd = msgspec.structs.replace(model, min_size_px=18, size_multiple_px=8)
    made = requests(odd)
    assert {(made[label].width_px, made[label].num_inference_steps) for label in made} == {(24, 4)}
    assert made["text"].image is None
    assert made["image"].strength is not None
    few = msgspec.structs.replace(model, max_steps=2, default_steps=2)
    assert requests(few)["text"].num_inference_steps == 2


def _lossy(change: Callable[[Payload], object]) -> Callable[[bytes], Payload]:
    def lossy(data: bytes) -> Payload:
        payload = unpack(data)
        change(payload)
        return payload

    return lossy


def _nudge_latents(payload: Payload) -> None:
    if "latents" in payload.values:
        payload.values["latents"] = payload.values["latents"] * 1.001


def _nudge_checkpoint(payload: Payload) -> None:
    if "step" in payload.values:
        payload.values["values"]["latents"] = payload.values["values"]["latents"] * 1.001


@pytest.mark.parametrize(
    ("change", "ways"), [(_nudge_latents, {"split", "resumed"}), (_nudge_checkpoint, {"resumed"})]
)
def test_another_picture_is_noticed(
    model: Model, monkeypatch: pytest.MonkeyPatch, change: Callable[[Payload], None], ways: set[str]
) -> None:
    monkeypatch.setattr(worker.self_check, "unpack", _lossy(change))
    _, lines = _checked(model)
    failed = {step: why for step, why in lines if why is not None}
    assert {step.rpartition(", ")[2] for step in failed} == ways
    assert all("values differ" in why for why in failed.values())


def test_a_failing_stage_is_told_and_the_others_go_on(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(payload: Payload) -> None:
        payload.values.pop("pooled_prompt_embeds", None)

    monkeypatch.setattr(worker.self_check, "unpack", _lossy(drop))
    _, lines = _checked(model)
    reasons = dict(lines)
    assert (reasons["text, split"] or "").startswith("stage denoise: ")
    assert reasons["image, whole"] is None


def _no_weights(model: Model, folder: Path) -> Model:
    broken = sd3(folder)
    for weights in Path(broken.source, "transformer").glob("*.safetensors"):
        weights.unlink()
    return broken


def _no_folder(model: Model, folder: Path) -> Model:
    return msgspec.structs.replace(model, source=str(folder / "nowhere"))


def _empty_folder(model: Model, folder: Path) -> Model:
    return msgspec.structs.replace(model, source=str(folder))


def _other_family(model: Model, folder: Path) -> Model:
    return msgspec.structs.replace(model, family="qwen-image")


def _too_small(model: Model, folder: Path) -> Model:
    return msgspec.structs.replace(model, min_size_px=1, size_multiple_px=1)


def _bad_adapter(model: Model, folder: Path) -> Model:
    return msgspec.structs.replace(model, adapters={"cold": str(folder / "cold.safetensors")})


def _guidance_out_of_range(model: Model, folder: Path) -> Model:
    return msgspec.structs.replace(model, default_guidance=0.5)


def _not_numbers(model: Model, folder: Path) -> Model:
    broken = sd3(folder)
    file = next(Path(broken.source, "vae").glob("*.safetensors"))
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: tensor * torch.nan for name, tensor in tensors.items()}, file)
    return broken


@pytest.mark.parametrize(
    ("make", "step", "reason"),
    [
        (_no_weights, "load", "transformer"),
        (_no_folder, "derive", "there is no folder"),
        (_empty_folder, "derive", "is no pipeline"),
        (_other_family, "derive", "SD3Transformer2DModel; the family qwen-image runs"),
        (_too_small, "text, whole", "at 1x1"),
        (_bad_adapter, "text, lora cold, whole", "'cold': there is no file"),
        (_guidance_out_of_range, "defaults", "guidance_scale must be at least 1"),
        (_not_numbers, "text, whole", "not all numbers"),
    ],
)
def test_the_reason_is_one_line(
    model: Model, tmp_path: Path, make: Callable[[Model, Path], Model], step: str, reason: str
) -> None:
    passed, lines = _checked(make(model, tmp_path))
    assert not passed
    failed = {step: why for step, why in lines if why is not None}
    assert reason in failed[step]
    assert "\n" not in failed[step]


ENTRY = """
[mine]
source = "./model"
family = "sd3"
dtype = "float32"
default_size_px = [32, 32]
min_size_px = 16
max_size_px = 64
size_multiple_px = 4
default_steps = 4
default_guidance = 3.0
inputs = { max_sequence_length = 12 }
"""


def _catalogue(folder: Path, old: str = "", new: str = "") -> Path:
    """A file that adds the model in `folder` as "mine", with `new` in place of `old`."""
    file = folder / "catalogue.toml"
    file.write_text(ENTRY.replace(old, new))
    return file


def test_a_file_adds_a_model_that_can_be_checked(tmp_path: Path) -> None:
    """As a process, by the launcher, from another folder."""
    sd3(tmp_path)
    file = _catalogue(tmp_path)
    assert load_catalogue(file)["mine"].default_guidance == 3.0
    run = subprocess.run(
        [ROOT / "launch.sh", "models", "check", "mine", "--catalogue", file.name, "--python", sys.executable],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("mine can be served\n")
    assert all(" ok" in line for line in run.stdout.splitlines()[:-1])


@pytest.mark.parametrize(
    ("arguments", "change", "reason"),
    [
        (["mine"], ("float32", "float8"), "mine.dtype is 'float8'"),
        (["mine"], ("default_steps", "stepz"), "stepz"),
        (["other"], ("", ""), "unknown model 'other'; known: "),
        (["mine", "--device", "abacus"], ("", ""), "no device 'abacus'"),
        (["mine"], ("./model", "./nowhere"), "mine cannot be served"),
    ],
)
def test_the_command_says_in_a_line_what_is_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    change: tuple[str, str],
    reason: str,
) -> None:
    file = _catalogue(tmp_path, *change)
    assert main([*arguments, "--catalogue", str(file)]) == 1
    said = capsys.readouterr()
    assert reason in said.err
    assert said.err.count("\n") == 1
    if "./nowhere" in change:
        assert said.out.split() == ["derive", "there", "is", "no", "folder", str(tmp_path / "nowhere")]
