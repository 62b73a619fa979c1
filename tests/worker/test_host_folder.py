"""The folder of host copies: whole files, one writer at a time, a bound over all processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from worker.errors import HostFolderFull
from worker.host_folder import HeldFile, HostFolder

_HOLDER = """
import sys
from pathlib import Path
from worker.host_folder import HostFolder
held = HostFolder(Path(sys.argv[1]), 100).open("a")
print(held.n_bytes, flush=True)
sys.stdin.read()
"""


def put(folder: HostFolder, name: str, data: bytes) -> HeldFile:
    return folder.write(name, len(data), lambda file: file.write(data))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> HostFolder:
    return HostFolder(tmp_path / "weights", 100)


def test_written_and_found(folder: HostFolder, tmp_path: Path) -> None:
    assert folder.open("a") is None
    put(folder, "a", b"x" * 40).close()
    held = folder.open("a")
    assert held is not None
    assert (held.n_bytes, held.path.read_bytes()) == (40, b"x" * 40)
    assert folder.used_bytes() == 40
    held.close()
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o700


def test_the_least_recently_used_leave_and_those_in_use_stay(folder: HostFolder, tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        put(folder, name, b"x" * 30).close()
        os.utime(tmp_path / "weights" / name, ns=(number, number))
    used = folder.open("a")
    assert used is not None
    put(folder, "d", b"x" * 30).close()
    assert folder.open("b") is None
    put(folder, "e", b"x" * 30).close()
    assert folder.open("c") is None
    assert sorted(path.name for _, path, _ in folder._files()) == ["a", "d", "e"]
    with pytest.raises(HostFolderFull, match="30 of 100 bytes are in use, 90 more"):
        put(folder, "f", b"x" * 90)
    used.close()


def test_more_than_the_bound_is_refused_and_costs_nothing(folder: HostFolder) -> None:
    put(folder, "a", b"x" * 30).close()
    with pytest.raises(HostFolderFull, match="101 bytes are more than the bound of 100"):
        put(folder, "b", b"x" * 101)
    assert folder.used_bytes() == 30


def test_a_writer_that_fails_leaves_nothing(folder: HostFolder) -> None:
    def fail(file: object) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        folder.write("a", 10, fail)
    assert folder.open("a") is None
    assert folder.used_bytes() == 0


def test_what_a_dead_writer_left_goes_before_files(folder: HostFolder, tmp_path: Path) -> None:
    (tmp_path / "weights" / ".draft-dead").write_bytes(b"x" * 60)
    put(folder, "a", b"x" * 30).close()
    assert folder.used_bytes() == 30


def test_another_process_keeps_what_it_maps(folder: HostFolder, tmp_path: Path) -> None:
    put(folder, "a", b"x" * 60).close()
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "weights")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"60\n"
        assert not folder.remove("a")
        with pytest.raises(HostFolderFull):
            put(folder, "b", b"x" * 60)
        holder.kill()
        holder.wait()
    put(folder, "b", b"x" * 60).close()
    assert folder.open("a") is None


def test_two_writers_of_one_name_take_turns(folder: HostFolder) -> None:
    inside: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with folder.alone("a"):
            inside.append("second")

    thread = threading.Thread(target=second)
    with folder.alone("a"), folder.alone("b"):
        thread.start()
        entered.wait(0.05)
        inside.append("first")
    thread.join(timeout=60)
    assert inside == ["first", "second"]


def test_places_are_remembered(folder: HostFolder) -> None:
    assert folder.remembered("/a|b") is None
    folder.remember("/a|b", "x")
    folder.remember("/a|b", "y")
    assert folder.remembered("/a|b") == "y"
    assert folder.used_bytes() == 0
