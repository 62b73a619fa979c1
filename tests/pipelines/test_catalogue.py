"""The catalogue: what it holds, what it refuses, and that reading it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.catalogue import BUILT_IN, from_entry, load_catalogue, to_entry
from pipelines.errors import CatalogueRefused, UnknownModel
from pipelines.families import FAMILIES


def _file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "catalogue.toml"
    file.write_text(text)
    return file


def test_the_built_in_model_is_there() -> None:
    model = load_catalogue()["triptych-emoji"]
    assert Path(model.source, "model_index.json").is_file()
    assert model.family_table.output == "images"


def test_every_image_family_has_a_public_model() -> None:
    catalogue = load_catalogue()
    named = {catalogue[name].family for name in catalogue.names if not catalogue[name].source.startswith("/")}
    assert {name for name, family in FAMILIES.items() if family.output == "images"} <= named


def test_an_entry_survives_the_message() -> None:
    model = load_catalogue()["triptych-emoji"]
    assert from_entry(to_entry(model)) == model


def test_a_file_adds_and_overrides(tmp_path: Path) -> None:
    file = _file(tmp_path, '[mine]\nsource = "./weights"\nfamily = "flux"\n')
    catalogue = load_catalogue(file)
    assert {"mine", "triptych-emoji"} <= set(catalogue.names)
    assert catalogue["mine"].source == str(tmp_path / "weights")
    override = _file(tmp_path, '[triptych-emoji]\nsource = "org/name"\nfamily = "wan"\n')
    assert load_catalogue(override)["triptych-emoji"].source == "org/name"


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownModel, match=r"'no-such'.*triptych-emoji"):
        load_catalogue()["no-such"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[m]\nfamily = "sd3"\n', "source"),
        ('[m]\nsource = "x"\nfamily = "nonsense"\n', "m.family"),
        ('[m]\nsource = "x"\nfamily = "sd3"\nstepz = 3\n', "stepz"),
        ('[m]\nsource = "x"\nfamily = "sd3"\ndefault_steps = 0\n', "default_steps"),
        ('[m]\nsource = "x"\nfamily = "sd3"\ndefault_size_px = [100, 100]\n', "m.default_size_px"),
        ('[m]\nsource = "x"\nfamily = "sd3"\ndefault_size_px = [4096, 64]\n', "m.default_size_px"),
        ('[m]\nsource = "x"\nfamily = "wan"\nworkflows = ["image"]\n', "m.workflows"),
        ('[m]\nsource = "x"\nfamily = "wan"\ndefault_frames = 6\n', "m.default_frames"),
        ('[m]\nsource = "x"\nfamily = "sd3"\ndtype = "float8"\n', r"m\.dtype is 'float8'; known: bfloat16"),
        ('[m]\nsource = "x"\nfamily = "sd3"\nstepz = 3\n', "m: .*stepz"),
        ('m = "x"\n', "m: Expected `object`"),
        ('[m]\nsource = "x"\nfamily = "flux2-klein"\ndefault_guidance = 4.0\n', "m.default_guidance"),
        ('[m]\nsource = "x"\nfamily = "sdxl"\nsampler = "unipc-flow"\n', "m.sampler"),
        ('[m]\nsource = "x"\nfamily = "sdxl"\nsampler = "lcm"\n', "m.max_steps is 200; lcm makes 50 at most"),
        ("[m\n", "catalogue.toml"),
    ],
)
def test_a_bad_file_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(CatalogueRefused, match=named):
        load_catalogue(_file(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueRefused, match=r"absent\.toml"):
        load_catalogue(tmp_path / "absent.toml")


def test_the_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["names"]) == 0
    assert "triptych-emoji" in capsys.readouterr().out.splitlines()
    assert main([]) == 0
    assert "128x128" in capsys.readouterr().out
    assert main(["list", "--catalogue", str(tmp_path / "absent.toml")]) == 1
    assert "absent.toml" in capsys.readouterr().err


def test_reading_the_catalogue_imports_no_torch() -> None:
    program = (
        "import sys, pipelines.__main__, pipelines.graph\n"
        "print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    checkout = BUILT_IN.parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
