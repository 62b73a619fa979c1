"""How launch.sh makes .venv, when it makes it again, and what it says when it cannot."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess

import pytest

from tests.launch.checkout import Checkout, network_less_pip
from tests.launch.test_launch import assert_one_line


@pytest.fixture
def recording(checkout: Checkout) -> Checkout:
    checkout.add_recording_python()
    return checkout


def test_it_is_made_once(recording: Checkout) -> None:
    first = recording.launch("models")
    assert first.stdout == "catalogue list\n"
    assert first.stderr == "launch.sh: making .venv (once, about 2 minutes)\n"
    assert recording.calls == ["venv", "pip", "pipelines"]
    second = recording.launch("models")
    assert second.stderr == ""
    assert recording.calls == ["venv", "pip", "pipelines", "pipelines"]


def test_pip_is_given_the_constraints_and_the_requirements(recording: Checkout) -> None:
    recording.launch("models")
    pip = recording.calls_file.read_text().splitlines()[1]
    assert f" -c {recording.root}/constraints.txt -- pytest>=1" in pip
    assert "triptych" not in pip
    assert "mypy" not in pip


def test_tests_add_the_development_packages(recording: Checkout) -> None:
    recording.launch("models")
    run = recording.launch("test")
    assert "adding the development packages" in run.stderr
    assert recording.calls == ["venv", "pip", "pipelines", "pip", "pytest"]
    assert recording.calls_file.read_text().splitlines()[3].endswith("pytest>=1 pytest-asyncio>=1 mypy>=1")
    recording.launch("test")
    recording.launch("models")
    assert recording.calls[5:] == ["pytest", "pipelines"]


def test_an_environment_for_tests_serves_too(recording: Checkout) -> None:
    recording.launch("test")
    recording.launch("models")
    assert recording.calls == ["venv", "pip", "pytest", "pipelines"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_it_is_made_again_when_a_dependency_file_changes(recording: Checkout, name: str) -> None:
    recording.launch("models")
    (recording.root / ".venv" / "old").touch()
    with (recording.root / name).open("a") as file:
        file.write("\n# changed\n")
    run = recording.launch("models")
    assert "the dependencies or Python changed" in run.stderr
    assert recording.calls == ["venv", "pip", "pipelines"] * 2
    assert not (recording.root / ".venv" / "old").exists()


def test_it_is_made_again_when_its_python_changes(recording: Checkout) -> None:
    recording.launch("models")
    recording.launch("models", environment={"FAKE_VERSION": "3.12"})
    assert recording.calls == ["venv", "pip", "pipelines"] * 2


def test_it_is_made_again_when_its_python_is_gone(recording: Checkout) -> None:
    recording.launch("models")
    (recording.root / ".venv" / "bin" / "python").unlink()
    recording.launch("models")
    assert recording.calls == ["venv", "pip", "pipelines"] * 2


def test_it_needs_no_python_on_path_once_made(recording: Checkout) -> None:
    recording.launch("models")
    (recording.programs / "python3").unlink()
    assert recording.launch("models").stdout == "catalogue list\n"
    assert recording.launch("serve", "--port", "0").returncode == 0


def test_an_interrupted_install_is_not_believed(recording: Checkout) -> None:
    large = "  Downloading https://index/some/torch-1.whl (530.2 MB)"
    with recording.started("models", environment={"FAKE_PIP_SAYS": large, "FAKE_PIP_HANGS": "1"}) as process:
        assert process.stderr
        lines = [process.stderr.readline() for _ in range(2)]
        assert lines[1] == "launch.sh:   getting torch-1.whl (530.2 MB)\n"
        # the end of the block kills the launcher and its pip
    assert (recording.root / ".venv" / "bin" / "python").exists()
    run = recording.launch("models")
    assert "an install was interrupted" in run.stderr
    assert recording.calls == ["venv", "pip", "venv", "pip", "pipelines"]


def test_a_failed_install_is_not_believed(recording: Checkout) -> None:
    assert recording.launch("models", environment={"FAKE_PIP_EXITS": "1"}).returncode == 14
    assert not (recording.root / ".venv").exists()
    assert recording.launch("models").stdout == "catalogue list\n"


def test_a_failed_addition_leaves_what_was_whole(recording: Checkout) -> None:
    recording.launch("models")
    assert recording.launch("test", environment={"FAKE_PIP_EXITS": "1"}).returncode == 14
    recording.launch("models")
    assert recording.calls == ["venv", "pip", "pipelines", "pip", "pipelines"]
    recording.launch("test")
    assert recording.calls[5:] == ["pip", "pytest"]


def test_two_at_a_time_install_once(recording: Checkout) -> None:
    with (recording.root / "pyproject.toml").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with recording.started("models") as process:
            assert process.stderr
            assert "waiting for another launch.sh" in process.stderr.readline()
            assert recording.calls == []
            fcntl.flock(file, fcntl.LOCK_UN)
            assert process.wait(timeout=20) == 0
    assert recording.calls == ["venv", "pip", "pipelines"]


def test_an_environment_of_someone_else_stays(recording: Checkout) -> None:
    own = recording.root / ".venv" / "bin"
    own.mkdir(parents=True)
    assert_one_line_after_making(recording.launch("models"), 14, "not of launch.sh's making", "--python")
    assert own.exists()
    assert recording.calls == []


def assert_one_line_after_making(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The line that tells that .venv is being made, then the one error."""
    first, rest = run.stderr.split("\n", 1)
    assert first == "launch.sh: making .venv (once, about 2 minutes)"
    run.stderr = rest
    assert_one_line(run, code, *words)


def test_no_python(checkout: Checkout) -> None:
    assert_one_line(checkout.launch("models"), 10, "3.11 or newer", "no python3 on PATH")


def test_an_old_python(checkout: Checkout) -> None:
    for name, version in {"python3": "3.10", "python3.11": "2.7"}.items():
        checkout.add_program(name, f"#!/usr/bin/env bash\necho {version}\n")
    assert_one_line(checkout.launch("serve"), 10, "python3 is 3.10, python3.11 is 2.7")


def test_an_old_python_beside_a_new_one(recording: Checkout) -> None:
    shutil.copy(recording.programs / "python3", recording.programs / "python3.12")
    recording.add_program("python3", "#!/usr/bin/env bash\necho 3.9\n")
    recording.add_program("python3.11", "#!/usr/bin/env bash\nexit 127\n")  # a version manager's shim
    assert recording.launch("models").stdout == "catalogue list\n"


@pytest.mark.parametrize("module", ["ensurepip", "venv"])
def test_a_python_without_venv(recording: Checkout, module: str) -> None:
    broken = recording.root.parent / "broken"
    broken.mkdir()
    (broken / f"{module}.py").write_text("raise ImportError")
    run = recording.launch("models", environment={"PYTHONPATH": str(broken)})
    assert_one_line_after_making(run, 11, "has no venv module", "python3-venv")
    assert recording.calls == []


def test_no_network(recording: Checkout) -> None:
    text = (recording.root / "pyproject.toml").read_text()
    (recording.root / "pyproject.toml").write_text(text.replace("pytest>=1", "no-such-thing>=1"))
    (recording.root / "constraints.txt").write_text("no-such-thing==1.2\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nothing else can take it
        run = recording.launch("models", environment=network_less_pip(closed.getsockname()[1]))
    assert_one_line_after_making(run, 12, "no network", "--python")
    assert not (recording.root / ".venv").exists()


def test_a_full_disk_as_pip_tells_it(recording: Checkout) -> None:
    says = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    run = recording.launch("models", environment={"FAKE_PIP_SAYS": says, "FAKE_PIP_EXITS": "1"})
    assert_one_line_after_making(run, 13, "the disk is full", str(recording.root))
    assert not (recording.root / ".venv").exists()


def test_a_full_disk(checkout: Checkout) -> None:
    """With the real venv, on a file system of 3 MB that goes away with its mount namespace."""
    enter = ["unshare", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o size=3m none "$1"'
    small = checkout.root.parent / "small"
    small.mkdir()
    if subprocess.run([*enter, "bash", "-c", mount, "-", small], capture_output=True).returncode:
        pytest.skip("no mounts for this user")
    checkout.add_real_python()
    script = f'{mount} && cp -r "$2"/. "$1" && PATH=$3 "$1/launch.sh" models'
    run = subprocess.run(
        [*enter, "bash", "-c", script, "-", small, checkout.root, checkout.programs],
        env={**checkout.environment, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert_one_line_after_making(run, 13, "the disk is full", str(small))


def test_other_failures_of_pip_are_shown_briefly(recording: Checkout) -> None:
    conflict = ["ERROR: Cannot install x because of conflicts.", "The conflict is caused by:", "    y"]
    says = "\n".join(["Collecting x"] * 50 + conflict + ["to fix this ..."] * 50)
    run = recording.launch("models", environment={"FAKE_PIP_SAYS": says, "FAKE_PIP_EXITS": "1"})
    assert run.returncode == 14
    lines = run.stderr.splitlines()[1:]
    assert lines[:3] == conflict
    assert lines[5:] == ["launch.sh: pip install failed"]
