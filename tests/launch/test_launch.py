"""What launch.sh starts, and the one line it says where it starts nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch.checkout import PROGRAM, ROOT, Checkout

COMMANDS = ("serve", "demo", "test", "models", "keys", "profile")
HERE = ("--python", sys.executable)


def told(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the stand-in said of how it was started."""
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def assert_one_line(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """It ended with this code, one line on stderr with all of these words, and nothing on stdout."""
    assert run.returncode == code, run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stdout == ""
    for word in words:
        assert word in run.stderr


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def gpus(checkout: Checkout) -> None:
    """Two of them; MIG slices are listed indented."""
    checkout.add_program(
        "nvidia-smi",
        '#!/usr/bin/env bash\n[[ $1 == -L ]] && printf "GPU %d: H100\\n  MIG 1g.10gb Device 0\\n" 0 1\n',
    )


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(checkout: Checkout, arguments: tuple[str, ...]) -> None:
    run = checkout.launch(*arguments)  # there is no Python on this PATH
    assert run.returncode == 0
    assert all(f"\n  {command} " in run.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_help(checkout: Checkout, command: str) -> None:
    run = checkout.launch(command, "--python", "nowhere", "--help")
    assert run.returncode == 0
    assert run.stdout.startswith(f"Usage: ./launch.sh {command} ")
    assert ("--gpus" in run.stdout) == (command in ("serve", "demo"))
    assert ("--port" in run.stdout) == (command == "serve")


def test_help_tells_every_exit_code(checkout: Checkout) -> None:
    script = checkout.script.read_text().split("EXIT_USAGE=", 1)[1].split("\n\n", 1)[0]
    codes = ["2", *(word.split("=")[1] for word in script.split() if word.startswith("EXIT_"))]
    assert len(set(codes)) == len(codes)
    text = checkout.launch("--help").stdout
    assert all(f" {code} " in text.replace("\n", " ") for code in codes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fly",), ("unknown command 'fly'", "serve, demo, test, models, keys or profile")),
        (("--cpu", "2"), ("a command comes first", "--cpu")),
        (("serve", "--gpus", "0", "--cpu", "2"), ("--gpus and --cpu exclude each other",)),
        (("serve", "--gpus", "2-1"), ("2-1 runs backwards",)),
        (("serve", "--gpus", "0-2,1"), ("GPU 1 twice",)),
        (("serve", "--gpus", "0,,1"), ("0-7 or 0,2,5", "0,,1")),
        (("serve", "--gpus", "all"), ("'all'",)),
        (("serve", "--gpus"), ("--gpus needs a value",)),
        (("serve", "--gpus="), ("--gpus needs a value",)),
        (("demo", "--cpu", "0"), ("number of workers", "'0'")),
        (("demo", "--cpu=two"), ("'two'",)),
        (("serve", "--port", "65536"), ("0 to 65535", "'65536'")),
        (("serve", "--port", "http"), ("'http'",)),
    ],
)
def test_wrong_usage_ends_with_2(
    checkout: Checkout, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_one_line(checkout.launch(*arguments), 2, *words)


def test_serve_passes_its_defaults(checkout: Checkout) -> None:
    run = checkout.launch("serve", "--cpu", "3", "--port", "0", *HERE)
    assert told(run)["program"] == "gateway.__main__"
    assert told(run)["arguments"] == (
        ["--host", "127.0.0.1", "--port", "0", "--model", "triptych-emoji", "--cpu", "3"]
    )
    assert run.stderr == ""


def test_the_default_port_is_8000(checkout: Checkout) -> None:
    checkout.add_real_python()
    run = checkout.launch("serve", "--host", "192.0.2.1")  # no machine has this address
    assert_one_line(run, 16, "192.0.2.1 port 8000")


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(("given", "passed"), [("0-1", "0,1"), ("1", "1"), ("1,0", "1,0"), ("00-01", "0,1")])
def test_serve_passes_the_gpus_as_a_list(checkout: Checkout, given: str, passed: str) -> None:
    run = checkout.launch("serve", "--port=0", f"--gpus={given}", *HERE)
    assert told(run)["arguments"][-2:] == ["--gpus", passed]


def test_other_flags_are_passed_on_in_their_order(checkout: Checkout) -> None:
    flags = ["--slo-scale", "two words", "--cpu", "1", "--flag=a b", "--", "--cpu", "x", "--help"]
    run = checkout.launch("serve", "--port", "0", "--model", "other-model", *HERE, *flags)
    expected = ["--slo-scale", "two words", "--flag=a b", "--cpu", "x", "--help"]
    assert told(run)["arguments"] == [
        *("--host", "127.0.0.1", "--port", "0"),
        *("--model", "other-model", "--cpu", "1"),
        *expected,
    ]


def test_serve_takes_several_models(checkout: Checkout) -> None:
    flags = ("--cpu", "1", "--port", "0", "--model", "other-model", "--model", "triptych-emoji")
    run = checkout.launch("serve", *flags, *HERE)
    assert told(run)["arguments"][4:8] == ["--model", "other-model", "--model", "triptych-emoji"]
    run = checkout.launch("serve", *flags, "--model", "third", *HERE)
    assert_one_line(run, 18, "no model 'third'")


# Answers what the real gateway does, in short.
CONFIGURED = """
import sys
if "--check-config" in sys.argv:
    if "--fail" in sys.argv:
        raise SystemExit("gateway: file f.toml: prot: there is no such setting")
    print('host = "127.0.0.1"\\nport = PORT  # file f.toml')
    print('models = ["other-model", "triptych-emoji"]  # file f.toml\\ncatalogues = ["c.toml"]')
    print("# gpus is not set\\ncpu = 2" + DEVICES)
    raise SystemExit
"""


def configure(checkout: Checkout, *, port: int = 0, devices: str = "  # file f.toml") -> None:
    text = CONFIGURED.replace("PORT", str(port)).replace("DEVICES", repr(devices))
    (checkout.root / "gateway" / "__main__.py").write_text(text + PROGRAM)


def test_a_configured_gateway_is_given_what_the_command_line_says_and_no_more(checkout: Checkout) -> None:
    configure(checkout)
    run = checkout.launch("serve", "--config", "f.toml", *HERE)
    assert told(run)["arguments"] == ["--config", "f.toml"]
    assert run.stderr == ""
    run = checkout.launch("serve", "--port", "0", "--cpu", "3", *HERE, environment={"TRIPTYCH_CPU": "2"})
    assert told(run)["arguments"] == ["--port", "0", "--cpu", "3"]
    configure(checkout, devices="")
    run = checkout.launch("serve", "--config=f.toml", "--model", "other-model", *HERE)
    arguments = told(run)["arguments"]
    assert arguments[:3] == ["--model", "other-model", "--cpu"]
    assert arguments[4:] == ["--config=f.toml"]
    assert "no GPU found" in run.stderr


def test_what_is_configured_is_checked_like_what_is_given(checkout: Checkout, busy_port: int) -> None:
    configure(checkout, port=busy_port)
    assert_one_line(
        checkout.launch("serve", "--config", "f.toml", *HERE), 16, f"port {busy_port} on 127.0.0.1 is in use"
    )
    configure(checkout)
    run = checkout.launch("serve", "--config", "f.toml", "--fail", *HERE)
    assert_one_line(run, 1, "file f.toml: prot: there is no such setting")
    (checkout.root / "pipelines" / "__main__.py").write_text("import sys\nprint('seen', *sys.argv[2:])\n")
    run = checkout.launch("serve", "--config", "f.toml", *HERE)
    assert_one_line(run, 18, "no model 'other-model'", "known: seen --catalogue c.toml")


def test_keys_go_to_the_gateway(checkout: Checkout, tmp_path: Path) -> None:
    answer = told(checkout.launch("keys", *HERE, "add", "alice", "--api-keys", "k.toml", cwd=tmp_path))
    assert answer["program"] == "gateway.__main__"
    assert answer["arguments"] == ["keys", "add", "alice", "--api-keys", "k.toml"]
    assert answer["folder"] == str(tmp_path)


def test_profile_goes_to_the_gateway(checkout: Checkout, tmp_path: Path) -> None:
    answer = told(checkout.launch("profile", *HERE, "other-model", "--json", "p.json", cwd=tmp_path))
    assert answer["program"] == "gateway.__main__"
    assert answer["arguments"] == ["profile", "other-model", "--json", "p.json"]
    assert answer["folder"] == str(tmp_path)


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("device", [(), ("--device", "cpu"), ("--device=cuda:1",)])
def test_profile_measures_the_first_gpu_unless_told(checkout: Checkout, device: tuple[str, ...]) -> None:
    answer = told(checkout.launch("profile", *HERE, *device))
    assert answer["arguments"] == ["profile", *(device or ("--device", "cuda:0"))]


def test_demo_starts_the_bench(checkout: Checkout) -> None:
    answer = told(checkout.launch("demo", "--cpu", "1", "--out", "x", *HERE))
    assert answer["program"] == "bench.__main__"
    assert answer["arguments"] == ["demo", "--cpu", "1", "--model", "triptych-emoji", "--out", "x"]


def test_test_starts_pytest_in_the_checkout(checkout: Checkout, tmp_path: Path) -> None:
    answer = told(checkout.launch("test", *HERE, "-k", "a or b", cwd=tmp_path))
    assert answer["program"] == "pytest.__main__"
    assert answer["arguments"] == ["-k", "a or b"]
    assert answer["folder"] == str(checkout.root)


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (6, 6), (64, 8)])
def test_the_whole_suite_runs_on_all_cores(checkout: Checkout, cores: int, processes: int) -> None:
    checkout.add_program("nproc", f"#!/usr/bin/env bash\necho {cores}\n")
    assert told(checkout.launch("test", *HERE))["arguments"] == ["-n", str(processes), "--dist", "worksteal"]
    assert told(checkout.launch("test", *HERE, "tests/x.py"))["arguments"] == ["tests/x.py"]


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (6, 3), (64, 4)])
def test_tests_get_half_the_cores_as_threads(checkout: Checkout, cores: int, threads: int) -> None:
    checkout.add_program("nproc", f"#!/usr/bin/env bash\necho {cores}\n")
    assert told(checkout.launch("test", *HERE))["threads"] == str(threads)
    assert told(checkout.launch("test", *HERE, environment={"OMP_NUM_THREADS": "7"}))["threads"] == "7"


def test_models_lists(checkout: Checkout) -> None:
    assert checkout.launch("models", *HERE).stdout == "catalogue list\n"
    run = checkout.launch("models", *HERE, "--catalogue", "x.toml")
    assert run.stdout == "catalogue --catalogue x.toml\n"


def test_models_check_starts_a_worker_of_its_own(checkout: Checkout) -> None:
    answer = told(checkout.launch("models", *HERE, "check", "mine", "--catalogue", "x.toml"))
    assert answer["program"] == "worker.check"
    assert answer["arguments"] == ["mine", "--catalogue", "x.toml"]
    answer = told(checkout.launch("models", "--catalogue", "x.toml", "check", "mine", *HERE))
    assert answer["arguments"] == ["--catalogue", "x.toml", "mine"]


def test_serve_checks_the_model_first_if_asked(checkout: Checkout) -> None:
    run = checkout.launch("serve", *HERE, "--check", "--cpu", "2", "--catalogue", "x.toml")
    check, gateway = (json.loads(line) for line in run.stdout.splitlines() if line.startswith("{"))
    assert check["program"] == "worker.check"
    assert check["arguments"] == ["triptych-emoji", "--catalogue", "x.toml"]
    assert gateway["program"] == "gateway.__main__"
    assert "--check" not in gateway["arguments"]


def test_a_model_that_fails_its_check_is_not_served(checkout: Checkout) -> None:
    (checkout.root / "worker" / "check.py").write_text("print('text, split differs'); raise SystemExit(1)")
    run = checkout.launch("serve", *HERE, "--check", "--cpu", "2")
    assert run.returncode == 20
    assert "'triptych-emoji' failed its check" in run.stderr
    assert "gateway" not in run.stdout


def test_any_current_directory_and_a_symlink(checkout: Checkout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "some where"
    # a package of the same name in the current directory is not taken for ours
    (elsewhere / "gateway").mkdir(parents=True)
    (elsewhere / "gateway" / "__init__.py").touch()
    (elsewhere / "gateway" / "__main__.py").write_text("raise SystemExit('the wrong one')")
    link = elsewhere / "start"
    link.symlink_to(checkout.script)
    for script in (str(link), "./start", os.path.relpath(checkout.script, elsewhere)):
        run = subprocess.run(
            [script, "serve", "--port", "0", "--cpu", "1", *HERE],
            cwd=elsewhere,
            env=checkout.environment,
            capture_output=True,
            text=True,
        )
        assert told(run)["folder"] == str(elsewhere)


def test_signals_reach_the_program_itself(checkout: Checkout) -> None:
    with checkout.started("serve", "--port", "0", "--cpu", "1", *HERE, "wait") as process:
        assert process.stdout
        answer = json.loads(process.stdout.readline())
        assert answer["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 7


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (16, 2)])
def test_without_a_gpu_the_cpu_serves(checkout: Checkout, cores: int, workers: int) -> None:
    checkout.add_program("nproc", f"#!/usr/bin/env bash\necho {cores}\n")
    run = checkout.launch("serve", "--port", "0", *HERE, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert told(run)["arguments"][-2:] == ["--cpu", str(workers)]
    assert f"no GPU found: {workers} CPU worker" in run.stderr


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("visible", "passed"), [(None, "0,1"), ("1", "0"), ("1,0,-1", "0,1"), ("GPU-1a", "0")]
)
def test_without_flags_every_visible_gpu_serves(checkout: Checkout, visible: str | None, passed: str) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    run = checkout.launch("demo", *HERE, environment=environment)
    assert told(run)["arguments"][1:3] == ["--gpus", passed]


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("visible", "asked", "words"),
    [
        (None, "0-2", "no GPU 2: this machine shows 2, 0 to 1"),
        ("1", "1", "no GPU 1: this machine shows one"),
        ("", "0", "no GPU 0: this machine shows none"),
        ("-1", "0", "no GPU 0: this machine shows none"),
    ],
)
def test_a_gpu_that_does_not_exist(checkout: Checkout, visible: str | None, asked: str, words: str) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert_one_line(
        checkout.launch("serve", "--port", "0", "--gpus", asked, *HERE, environment=environment), 17, words
    )


def test_torch_is_asked_where_there_is_no_nvidia_smi(checkout: Checkout) -> None:
    (checkout.root / "torch.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 3)\n")
    run = checkout.launch("serve", "--port", "0", "--gpus", "0-2", *HERE)
    assert told(run)["arguments"][-2:] == ["--gpus", "0,1,2"]
    assert_one_line(checkout.launch("serve", "--port", "0", "--gpus", "3", *HERE), 17, "shows 3, 0 to 2")


def test_a_driver_that_does_not_answer_is_no_gpu(checkout: Checkout) -> None:
    checkout.add_program("nvidia-smi", "#!/usr/bin/env bash\necho 'Failed to initialize NVML'\nexit 9\n")
    assert_one_line(
        checkout.launch("serve", "--port", "0", "--gpus", "0", *HERE), 17, "this machine shows none"
    )


def test_a_busy_port_is_told_before_anything_is_made(checkout: Checkout, busy_port: int) -> None:
    checkout.add_recording_python()
    run = checkout.launch("serve", "--port", str(busy_port), "--cpu", "1")
    assert_one_line(run, 16, f"port {busy_port} on 127.0.0.1 is in use")
    assert checkout.calls == []


def test_a_port_just_left_is_not_busy(checkout: Checkout) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the port for a minute
            client.recv(1)
    run = checkout.launch("serve", "--port", str(port), "--cpu", "1", *HERE)
    assert told(run)["arguments"][3] == str(port)


def test_a_host_of_no_address(checkout: Checkout) -> None:
    run = checkout.launch("serve", "--host", "no.such.host.invalid", "--cpu", "1", *HERE)
    assert_one_line(run, 16, "cannot listen on no.such.host.invalid")


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_an_unknown_model_and_the_known_ones(checkout: Checkout, command: str) -> None:
    run = checkout.launch(command, "--cpu", "1", "--model", "emoji", *HERE)
    assert_one_line(run, 18, "no model 'emoji'", "known: triptych-emoji, other-model")


def test_a_further_catalogue_is_read_for_the_names(checkout: Checkout) -> None:
    (checkout.root / "pipelines" / "__main__.py").write_text("import sys\nprint('own' + sys.argv[-1])\n")
    run = checkout.launch("demo", "--cpu", "1", "--catalogue", "x.toml", "--model", "ownx.toml", *HERE)
    assert told(run)["arguments"][-2:] == ["--catalogue", "x.toml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_distribution_named_kernels(checkout: Checkout, command: str) -> None:
    checkout.add_distribution("kernels", "0.9")
    assert_one_line(checkout.launch(command, *HERE), 19, "kernels 0.9", "pip uninstall kernels")


def test_python_that_lacks_packages(checkout: Checkout) -> None:
    text = (checkout.root / "pyproject.toml").read_text()
    (checkout.root / "pyproject.toml").write_text(
        text.replace("dependencies = []", 'dependencies = ["pytest>=999", "no-such-thing>=1"]').replace(
            '"pytest-asyncio>=1"', '"nor-this"'
        )
    )
    run = checkout.launch("models", *HERE)
    assert_one_line(run, 15, f"{sys.executable} lacks pytest>=999 (it has 9", "no-such-thing")
    assert "nor-this" not in run.stderr
    assert_one_line(checkout.launch("test", *HERE), 15, "no-such-thing, nor-this")
    assert not (checkout.root / ".venv").exists()


def test_python_that_is_none(checkout: Checkout) -> None:
    assert_one_line(
        checkout.launch("models", "--python", "nowhere/python"), 10, "'nowhere/python' is not there"
    )
    checkout.add_program("old", "#!/usr/bin/env bash\necho 3.10\n")
    old = checkout.programs / "old"
    assert_one_line(checkout.launch("models", "--python", old), 10, "3.11 or newer", f"{old} is 3.10")
    assert_one_line(checkout.launch("models", "--python", "rmdir"), 10, "not a Python that starts")


def test_python_by_a_relative_path(checkout: Checkout, tmp_path: Path) -> None:
    checkout.add_real_python()
    relative = os.path.relpath(checkout.programs / "python3", tmp_path)
    run = checkout.launch("test", "--python", relative, cwd=tmp_path)
    assert told(run)["folder"] == str(checkout.root)


def test_every_requirement_is_pinned() -> None:
    script = """source <(sed '/^main /d' launch.sh); "$1" -c "$REQUIREMENTS" . dev list"""
    run = subprocess.run(
        ["bash", "-c", script, "-", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    wanted = {line.split(">")[0].split("[")[0] for line in run.stdout.split()}
    assert "torch" in wanted
    assert wanted <= set(pins)
    assert "+" not in "".join(pins.values())
    assert not [name for name in pins if name.startswith(("nvidia", "cuda", "kernels"))]
