"""The runtime folder: one owner, private, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wire.errors import AlreadyRunning, NotPrivate
from wire.runtime import SHARED_MEMORY, RuntimeFolder, runtime_root, spare_bytes


def test_it_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    with RuntimeFolder("one", root=tmp_path) as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert folder.endpoint.startswith("ipc://")
        folder.handoff.mkdir()
        (folder.handoff / "file").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_second_owner_is_refused_and_harmless(tmp_path: Path) -> None:
    with RuntimeFolder("one", root=tmp_path) as folder:
        (folder.path / "gateway.sock").touch()
        with pytest.raises(AlreadyRunning), RuntimeFolder("one", root=tmp_path):
            pass
        assert (folder.path / "gateway.sock").exists()


def test_live_siblings_are_left_alone(tmp_path: Path) -> None:
    with RuntimeFolder("one", root=tmp_path) as first, RuntimeFolder("two", root=tmp_path) as second:
        assert first.path.exists()
        assert second.path.exists()


def test_what_a_killed_gateway_left_is_swept(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from wire.runtime import RuntimeFolder\n"
        "folder = RuntimeFolder('dead', root=Path(sys.argv[1])); folder.__enter__()\n"
        "folder.handoff.mkdir(); (folder.handoff / 'file').write_bytes(b'x')\n"
        "print('up', flush=True); time.sleep(600)\n"
    )
    checkout = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGKILL)
    dead = RuntimeFolder("dead", root=tmp_path).path
    assert dead.exists()
    with RuntimeFolder("next", root=tmp_path):
        assert not dead.exists()


def test_the_same_name_can_be_taken_over_from_a_dead_owner(tmp_path: Path) -> None:
    stale = RuntimeFolder("one", root=tmp_path)
    stale.path.mkdir(mode=0o700)
    (stale.path / "gateway.sock").touch()
    with RuntimeFolder("one", root=tmp_path) as folder:
        assert not (folder.path / "gateway.sock").exists()


def test_a_folder_that_others_may_have_made_is_not_used(tmp_path: Path) -> None:
    folder = RuntimeFolder("one", root=tmp_path)
    folder.path.mkdir()
    folder.path.chmod(0o755)
    with pytest.raises(NotPrivate), folder:
        pass
    folder.path.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPrivate), folder:
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_sibling_that_is_about_to_start_is_left_alone(tmp_path: Path) -> None:
    starting = RuntimeFolder("starting", root=tmp_path)
    starting.path.mkdir(mode=0o700)
    with RuntimeFolder("one", root=tmp_path):
        assert starting.path.exists()


def test_the_root_has_room() -> None:
    assert runtime_root(1).is_dir()
    assert runtime_root(1 << 60) != Path("/dev/shm")


def test_only_memory_has_bytes_to_spare(tmp_path: Path) -> None:
    assert spare_bytes(tmp_path, 0) == 0
    free_bytes = shutil.disk_usage(SHARED_MEMORY).free
    assert 0 < spare_bytes(SHARED_MEMORY, 0) <= free_bytes
    assert spare_bytes(SHARED_MEMORY, 2 * free_bytes) == 0
