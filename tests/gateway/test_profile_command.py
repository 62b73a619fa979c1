"""`python -m gateway profile` over scripted workers, and the start after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateway.errors import ConfigRefused
from gateway.profile_command import asked_config
from gateway.profiles import Kept
from gateway.supervisor import CHECKOUT
from tests.gateway.served import served


def profile(tmp_path: Path, *arguments: str, fates: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "fates"
    folder.mkdir(exist_ok=True)
    for number, fate in enumerate(fates):
        (folder / f"{number:02},{fate}").touch()
    command = (sys.executable, "-m", "tests.gateway.scripted_gateway", str(folder), "profile", *arguments)
    variables = {name: os.environ[name] for name in os.environ if not name.startswith("TRIPTYCH_")}
    return subprocess.run(command, cwd=CHECKOUT, env=variables, capture_output=True, text=True, timeout=60)


async def test_a_table_and_what_the_next_start_reads(tmp_path: Path) -> None:
    kept, copy = tmp_path / "kept", tmp_path / "p.json"
    run = profile(tmp_path, "--profiles", str(kept), "--json", str(copy))
    assert run.returncode == 0, run.stderr
    table = run.stdout.splitlines()
    assert table[0] == "triptych-emoji on scripted, threads 1"
    [file] = kept.iterdir()
    assert table[-1] == f"kept as {file}"
    assert (
        "INFO gateway.measuring: cpu-0: measuring triptych-emoji: text_encoder: measured so far" in run.stderr
    )
    assert msgspec.json.decode(copy.read_bytes(), type=Kept).measurements.model == "triptych-emoji"
    flags = ("--profile", "auto", "--profiles", str(kept))
    async with served(tmp_path, *flags) as gateway:
        await gateway.ready()
        await gateway.says(f"its profile is read from {kept}")


def test_a_model_that_cannot_be_measured(tmp_path: Path) -> None:
    run = profile(tmp_path, "--profiles", str(tmp_path / "kept"), fates=("measure,fail",))
    assert run.returncode == 1
    assert "gateway profile: triptych-emoji could not be measured" in run.stderr
    assert "no such shape" in run.stderr
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such",), "no-such"),
        (("--device", "tpu"), "flag --device: device: 'tpu'"),
        (("--cpu", "0"), "cpu"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    run = profile(tmp_path, *arguments)
    assert run.returncode == 2
    assert words in run.stderr.splitlines()[-1]
    assert run.stdout == ""


def test_it_measures_with_the_threads_that_a_start_would_give_a_worker() -> None:
    config, copy = asked_config(["toy", "--cpu", "1", "--threads", "3"], {})
    assert [(w.device, w.threads) for w in config.workers] == [("cpu", 3)]
    assert (config.models, config.profile, config.port, copy) == (("toy",), "fresh", 0, None)
    config, _ = asked_config(["--device", "cuda:3"], {"HOME": "/h"})
    assert [w.device for w in config.workers] == ["cuda:3"]
    assert config.profiles == Path("/h/.cache/triptych/profiles")
    with pytest.raises(ConfigRefused, match="neither cpu nor cuda:N"):
        asked_config(["--device", "tpu"], {})
