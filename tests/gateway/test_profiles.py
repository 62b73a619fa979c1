"""Profiles on disk: what their key holds, and what is measured."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from gateway.profile_table import fits, lines
from gateway.profiles import Key, ProfileFolder, default_folder, generations_to_measure, key_of, refusal
from pipelines.catalogue import Model
from planner.measurements import Measurement, Measurements
from planner.types import Shape
from tests.gateway.conftest import MODEL

FOUND = Measurements(
    device="cpu, threads 1",
    model="toy",
    measured=(
        Measurement(stage="decode", shape=Shape(64, 64), seconds=0.5, peak_bytes=2 * 2**20),
        Measurement(stage="denoise", shape=Shape(256, 256), seconds=0.16, peak_bytes=2**20),
        Measurement(stage="denoise", shape=Shape(128, 128), seconds=0.04),
        Measurement(stage="denoise", shape=Shape(128, 128), seconds=0.06, batch=2),
        Measurement(stage="denoise", shape=Shape(64, 64, 5, guided=False), seconds=0.01),
    ),
    weight_bytes={"denoise": 3 * 2**20, "decode": 2**20},
    load_s={"denoise": 1.5},
    resume_s=0.0123,
)


def not_tiled(width_px: int, height_px: int) -> bool:
    return False


def a_key(model: Model = MODEL, device: str = "cpu, threads 1") -> Key:
    return key_of("toy", model, device, generations_to_measure(model, tiled=not_tiled), "auto")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "weights").write_bytes(b"123")
    return msgspec.structs.replace(MODEL, source=str(folder))


def test_the_same_of_everything_has_the_same_file(model: Model) -> None:
    assert a_key(model) == a_key(model)
    assert a_key(model).file_name == a_key(model).file_name
    assert a_key(model).files[0][:2] == ("vae/weights", 3)


def test_another_of_anything_has_another_file(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {a_key(model).file_name, a_key(model, "cpu, threads 2").file_name}
    names.add(a_key(msgspec.structs.replace(model, default_steps=9)).file_name)
    generations = generations_to_measure(model, tiled=lambda width, height: width > 200)
    tiled = key_of("toy", model, "cpu, threads 1", generations, "auto")
    names.add(tiled.file_name)
    weights = Path(model.source) / "vae" / "weights"
    os.utime(weights, ns=(1, 1))
    names.add(a_key(model).file_name)
    weights.write_bytes(b"1234")
    names.add(a_key(model).file_name)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1")
    names.add(a_key(model).file_name)
    assert len(names) == 7


def test_a_model_of_the_hub_is_known_by_its_name() -> None:
    assert a_key(msgspec.structs.replace(MODEL, source="someone/something")).files == ()


def test_what_is_written_is_read_and_nothing_else_stays(tmp_path: Path) -> None:
    folder = ProfileFolder(tmp_path / "a" / "b")
    assert folder.read(a_key()) is None
    file = folder.write(a_key(), FOUND)
    assert file is not None
    assert folder.read(a_key()) == FOUND
    assert list(folder.path.iterdir()) == [file]
    assert folder.read(a_key(device="another")) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"measured": ()}, "nothing was measured"),
        ({"load_s": {"decode": float("nan")}}, "loads of"),
        ({"weight_bytes": {"decode": -1}}, "weights of"),
        ({"resume_s": float("inf")}, "a resume of"),
        ({"measured": (Measurement(stage="x", shape=Shape(8, 8), seconds=0.0),)}, "x in 0.0 s"),
        ({"measured": (Measurement(stage="x", shape=Shape(8, 8), seconds=1.0, batch=0),)}, "0 jobs"),
    ],
)
def test_figures_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    builtins = {**msgspec.to_builtins(FOUND), **msgspec.to_builtins(changes)}
    reason = refusal(msgspec.convert(builtins, Measurements))
    assert reason is not None
    assert words in reason
    assert refusal(FOUND) is None


def test_where_profiles_are_kept() -> None:
    assert default_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c/triptych/profiles")
    assert default_folder({"HOME": "/h"}) == Path("/h/.cache/triptych/profiles")
    assert default_folder({}).name == f"triptych-{os.getuid()}-profiles"


def test_the_usual_size_comes_first_and_none_twice() -> None:
    def sizes(**changes: object) -> list[tuple[int, int, float]]:
        model = msgspec.structs.replace(MODEL, **changes)
        asked = generations_to_measure(model, tiled=not_tiled)
        return [(g.width_px, g.height_px, g.guidance_scale) for g in asked]

    wide = sizes(default_size_px=(256, 128), default_guidance=1.0)
    assert wide == [(256, 128, 1.0), (64, 64, 1.0), (208, 208, 1.0), (256, 256, 1.0)]
    assert sizes(default_size_px=(256, 256)) == [(256, 256, 4.0), (64, 64, 4.0), (256, 256, 1.0)]
    # sizes are multiples, within the bounds
    odd = sizes(default_size_px=(96, 96), min_size_px=50, max_size_px=250, size_multiple_px=32)
    assert odd == [(96, 96, 4.0), (64, 64, 4.0), (160, 160, 4.0), (224, 224, 4.0), (96, 96, 1.0)]


def test_guidance_that_is_an_input_of_the_network_costs_nothing_to_leave_out() -> None:
    flux = msgspec.structs.replace(MODEL, family="flux")
    assert {g.guidance_scale for g in generations_to_measure(flux, tiled=not_tiled)} == {4.0}


def test_the_table() -> None:
    table = lines(FOUND)
    assert table[:6] == [
        "toy on cpu, threads 1",
        "",
        "stage    shape               jobs     ms  ms a job  peak MiB",
        "denoise  128x128                1   40.0      40.0         -",
        "denoise  64x64 x 5 unguided     1   10.0      10.0         -",
        "denoise  256x256                1  160.0     160.0       1.0",
    ]
    assert "denoise  128x128                2   60.0      30.0         -" in table
    assert "denoise: weights of 3.0 MiB, loaded in 1.50 s" in table
    assert "decode: weights of 1.0 MiB" in table
    assert "pausing a loop and going on costs 12.3 ms" in table
    # in proportion to the pixels, so either one tells the other
    assert fits(FOUND) == [
        "denoise: fitted as 2441 ms a megapixel; a shape left out is missed by 0% (median), 0% (worst)"
    ]
