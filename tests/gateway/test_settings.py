from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.__main__ import main
from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused
from gateway.settings import SETTINGS, Devices, Effective, read

ALL = {
    "host": "::1",
    "port": 0,
    "models": ["a", "b"],
    "catalogues": ["c.toml", "d.toml"],
    "cpu": 1,
    "threads": 3,
    "placement": {"cpu-0": ["x", "y"]},
    "api_keys": "keys.toml",
    "allow_unauthenticated": True,
    "journal": "j",
    "record": "r",
    "log_level": "debug",
    "log_format": "json",
    "log_prompts": True,
    "kernels": "torch",
    "profile": "fresh",
    "profiles": "p",
    "policy": "fair",
    "planner_off": ["pauses", "joins"],
    "files": "f",
    "public_url": "https://pictures.example.org/here",
}
"""Those that are no numbers, each unlike its default."""


def a_file(folder: Path, text: str) -> Path:
    file = folder / "triptych.toml"
    file.write_text(text)
    return file


def configured(*flags: str, file: Path | None = None, **variables: str) -> Effective:
    return read([*flags, *(("--config", str(file)) if file else ())], variables)


def other_values() -> dict[str, Any]:
    """For every setting but the GPUs a value that is not its default and can be honoured."""
    effective = configured()
    values: dict[str, Any] = dict(ALL)
    for setting in SETTINGS:
        if setting.name not in ALL and setting.name != "gpus":
            default = effective.values[setting.name]
            values[setting.name] = 7 if default is None else default + 1
    return values


def as_text(value: Any) -> list[str]:
    match value:
        case dict():
            return [",".join(f"{worker}={'+'.join(stages)}" for worker, stages in value.items())]
        case list():
            return value
        case bool():
            return [str(value).lower()]
        case _:
            return [str(value)]


def test_every_field_is_in_the_table_once() -> None:
    names = [setting.name for setting in SETTINGS]
    assert sorted(names) == sorted(
        {*GatewayConfig.__struct_fields__, *Devices.__struct_fields__} - {"workers"}
    )


def test_triton_without_a_gpu_is_refused_at_start() -> None:
    with pytest.raises(ConfigRefused, match="flag --kernels: kernels: triton needs a GPU, and cpu-0, cpu-1"):
        configured("--kernels", "triton")
    assert configured("--kernels", "triton", TRITON_INTERPRET="1").config.kernels == "triton"
    assert configured("--kernels", "triton", "--gpus", "0").config.kernels == "triton"
    assert configured().config.kernels == "auto"
    with pytest.raises(ConfigRefused, match="cuda"):
        configured("--kernels", "cuda")


def test_the_three_ways_set_the_same(tmp_path: Path) -> None:
    values = other_values()
    default = configured()
    flags: list[str] = []
    variables: dict[str, str] = {}
    for setting in SETTINGS:
        if setting.name in values:
            texts = as_text(values[setting.name])
            variables[setting.variable] = ",".join(texts)
            for text in texts:
                flags += [setting.flags, text] if text != "true" else [setting.flags]
    text = msgspec.structs.replace(default, values=values, sources={}).as_toml()
    by_flag, by_variable = configured(*flags), read([], variables)
    by_file = configured(file=a_file(tmp_path, text))
    assert by_flag.config == by_variable.config == by_file.config
    for name in values:
        assert by_flag.values[name] != default.values[name]
    for effective, source in (
        (by_flag, "flag --"),
        (by_variable, "environment TRIPTYCH_"),
        (by_file, "file "),
    ):
        assert effective.sources.keys() == values.keys()
        assert all(found.startswith(source) for found in effective.sources.values())


def test_what_is_printed_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIPTYCH_PROFILE")
    flags = ("--cpu", "2", "--placement", "cpu-0=a+b,cpu-1=c", "--journal", 'a "b" ü', "--model", "m")
    assert main([*flags, "--check-config"]) == 0
    printed = capsys.readouterr().out
    assert 'models = ["m"]  # flag --model\n' in printed
    assert "port = 8000\n" in printed
    assert configured(file=a_file(tmp_path, printed)).config == configured(*flags).config


def test_a_flag_wins_over_a_variable_and_that_over_the_file(tmp_path: Path) -> None:
    file = a_file(tmp_path, 'port = 1\nmin_samples = 1\nmodels = ["file", "both"]\nhost = "::1"')
    effective = configured(
        *("--port", "3", "--model", "flag"), file=file, TRIPTYCH_PORT="2", TRIPTYCH_MIN_SAMPLES="2", OTHER="x"
    )
    config = effective.config
    assert (config.port, config.min_samples, config.host, config.models) == (3, 2, "::1", ("flag",))
    assert effective.sources == {
        "host": f"file {file}",
        "port": "flag --port",
        "models": "flag --model",
        "min_samples": "environment TRIPTYCH_MIN_SAMPLES",
    }
    assert "port by flag --port" in effective.summary()
    assert configured(TRIPTYCH_CONFIG=str(file)).config.port == 1
    assert configured().summary() == "all defaults"


def test_the_devices_of_a_higher_place_win_whichever_they_are(tmp_path: Path) -> None:
    file = a_file(tmp_path, "gpus = [0, 1]")
    assert [worker.device for worker in configured(file=file).config.workers] == ["cuda:0", "cuda:1"]
    assert [worker.device for worker in configured("--cpu", "1", file=file).config.workers] == ["cpu"]
    assert len(configured("--gpus", "0-3", TRIPTYCH_CPU="2").config.workers) == 4
    assert [worker.device for worker in configured().config.workers] == ["cpu", "cpu"]
    assert len(configured(file=a_file(tmp_path, 'gpus = "4-7"')).config.workers) == 4
    with pytest.raises(ConfigRefused, match="flag --gpus: gpus: and cpu exclude each other"):
        configured("--cpu", "1", "--gpus", "0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 70000", "file {file}: port: 70000 is not between 0 and 65535"),
        ('port = "8000"', "file {file}: port: '8000': Expected `int`, got `str`"),
        ("prot = 1", "file {file}: prot: there is no such setting"),
        ("[workers]\nx = 1", "file {file}: workers: there is no such setting"),
        ("port = ", "config: {file}: "),
        ("models = []", "file {file}: models: there are none"),
        ('journal = ""', "file {file}: journal: "),
        ('log_level = "loud"', "file {file}: log_level: "),
        ('gpus = "1-0"', "file {file}: gpus: "),
        ("cpu = 1\nthreads = 0", "file {file}: threads: 0 is less than 1"),
    ],
)
def test_an_error_in_the_file_says_where(tmp_path: Path, text: str, said: str) -> None:
    file = a_file(tmp_path, text)
    with pytest.raises(ConfigRefused) as refused:
        configured(file=file)
    assert str(refused.value).startswith(said.format(file=file))


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("TRIPTYCH_PORT", "tcp://10.0.0.1:8000", "environment TRIPTYCH_PORT: port: 'tcp://10.0.0.1:8000': "),
        ("TRIPTYCH_PROT", "1", "environment: TRIPTYCH_PROT: there is no such setting"),
        (
            "TRIPTYCH_DRAIN_TIMEOUT_S",
            "-1",
            "environment TRIPTYCH_DRAIN_TIMEOUT_S: drain_timeout_s: -1.0 is not",
        ),
        ("TRIPTYCH_ALLOW_UNAUTHENTICATED", "perhaps", "environment TRIPTYCH_ALLOW_UNAUTHENTICATED: "),
        ("TRIPTYCH_CONFIG", "/no/such.toml", "config: /no/such.toml cannot be read: No such file"),
        ("TRIPTYCH_PLACEMENT", "there", "environment TRIPTYCH_PLACEMENT: placement: "),
        (
            "TRIPTYCH_POLICY",
            "luck",
            "environment TRIPTYCH_POLICY: policy: 'luck' is none of triptych, fair, ",
        ),
        ("TRIPTYCH_PLANNER_OFF", "joins,x", "environment TRIPTYCH_PLANNER_OFF: planner_off: 'x' is none of "),
    ],
)
def test_an_error_in_a_variable_says_which(variable: str, text: str, said: str) -> None:
    with pytest.raises(ConfigRefused) as refused:
        read([], {variable: text})
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("flags", ["--port x", "--log-level loud", "--journal=", "--threads 1.5"])
def test_wrong_values_of_flags(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags.split()) == 2
    flag = flags.partition(" ")[0].rstrip("=")
    assert capsys.readouterr().err.startswith(f"gateway: flag {flag}: ")


@pytest.mark.parametrize("flags", ["--no-such-flag", "--drain 5", "left over"])
def test_flags_that_are_none_exit_with_2(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        read(flags.split(), {})
    assert left.value.code == 2
    assert "error:" in capsys.readouterr().err
