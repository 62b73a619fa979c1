"""The folder of files that clients fetch by URL, alone; over HTTP it is `test_urls`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigRefused, FilesFull, FileUnknown, InvalidRequest, StartFailed
from gateway.files import FileStore
from wire.generation import FileFormat, Generation

NOW_S = 1_800_000_000.5
ROOM = 1_000_000


def generation(side_px: int = 100) -> Generation:
    return Generation(
        prompt="a hat",
        width_px=side_px,
        height_px=side_px,
        num_inference_steps=2,
        guidance_scale=1.0,
        seed=1,
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store(folder: Path, clock: Clock, **fields: Any) -> FileStore:
    return FileStore(folder, **{"capacity_bytes": ROOM, "ttl_s": 60.0, "wall_clock": clock, **fields})


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> Iterator[FileStore]:
    with store(tmp_path / "files", clock) as opened:
        yield opened


@pytest.mark.parametrize(
    ("file_format", "suffix", "content_type"),
    [
        (FileFormat.PNG, "png", "image/png"),
        (FileFormat.JPEG, "jpg", "image/jpeg"),
        (FileFormat.WEBP, "webp", "image/webp"),
    ],
)
def test_a_file_has_a_random_name_and_is_private(
    files: FileStore, file_format: FileFormat, suffix: str, content_type: str
) -> None:
    one, other = files.put(b"one", file_format), files.put(b"other", file_format)
    assert re.fullmatch(rf"[0-9a-f]{{40}}\.{suffix}", one.name)
    assert one.name.partition(".")[0] != other.name.partition(".")[0]
    assert one.content_type == content_type
    assert (one.path.read_bytes(), one.expires_at) == (b"one", 1_800_000_061)
    assert one.path.stat().st_mode & 0o777 == 0o600
    assert one.path.parent.stat().st_mode & 0o777 == 0o700
    assert files.find(one.name) == one


@pytest.mark.parametrize("name", ["", "x", "lock", "../lock", "%2e%2e/lock", "0" * 40 + ".png", "\x00"])
def test_only_files_that_were_put_are_found(files: FileStore, name: str) -> None:
    files.put(b"one", FileFormat.PNG)
    with pytest.raises(FileUnknown):
        files.find(name)


def test_it_is_gone_from_the_second_of_its_expiry_and_swept_a_little_later(
    files: FileStore, clock: Clock
) -> None:
    early = files.put(b"one", FileFormat.PNG)
    clock.now_s += 30
    late = files.put(b"two", FileFormat.PNG)
    clock.now_s = early.expires_at - 0.1
    assert files.find(early.name) is early
    clock.now_s = early.expires_at
    with pytest.raises(FileUnknown):
        files.find(early.name)
    files.sweep()
    assert early.path.exists()
    clock.now_s += 5
    files.sweep()
    assert not early.path.exists()
    assert files.find(late.name) is late
    assert files.statistics() == {"files": 1, "n_bytes": 3, "reserved_bytes": 0}


def test_room_is_taken_before_and_given_back_after(files: FileStore) -> None:
    # 105 536 bytes each
    with files.room_for([generation()] * 9):
        with (
            pytest.raises(FilesFull, match="response_format b64_json") as refused,
            files.room_for([generation()]),
        ):
            pass
        assert (refused.value.http_status, refused.value.code) == (503, "files_full")
    with files.room_for([generation()] * 9), pytest.raises(KeyError):
        raise KeyError
    assert files.statistics()["reserved_bytes"] == 0


def test_what_is_kept_is_never_dropped_for_room(files: FileStore, clock: Clock) -> None:
    stored = files.put(b"x" * 950_000, FileFormat.PNG)
    with pytest.raises(FilesFull) as refused, files.room_for([generation()]):
        pass
    assert refused.value.retry_after_s == pytest.approx(60.5 + 35)
    assert files.find(stored.name) is stored
    clock.now_s += refused.value.retry_after_s or 0
    files.sweep()
    with files.room_for([generation()]):
        pass


def test_what_never_fits_is_the_caller_s_fault(files: FileStore) -> None:
    with pytest.raises(InvalidRequest) as refused, files.room_for([generation(600)]):
        pass
    assert refused.value.param == "response_format"


def test_a_disk_without_room_refuses_and_leaves_nothing(
    files: FileStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(tmp_path / "files"))
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(FilesFull, match="No space left"):
        files.put(b"one", FileFormat.PNG)
    assert sorted(os.listdir(tmp_path / "files")) == before
    assert files.statistics()["n_bytes"] == 0


def test_the_next_gateway_honours_what_has_not_expired(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "files"
    with store(folder, clock) as first:
        short = first.put(b"short", FileFormat.PNG)
    with store(folder, clock, ttl_s=500.0) as second:
        long = second.put(b"long", FileFormat.WEBP)
        assert second.find(short.name).path.read_bytes() == b"short"
    foreign = folder / "holiday.png"
    for path in (foreign, folder / ".unfinished-x"):
        path.write_bytes(b"y")
    clock.now_s += 100
    with store(folder, clock) as third:
        assert third.find(long.name).path.read_bytes() == b"long"
        with pytest.raises(FileUnknown):
            third.find(short.name)
        assert third.statistics() == {"files": 1, "n_bytes": 4, "reserved_bytes": 0}
    # what is not ours is left alone
    assert sorted(path.name for path in folder.iterdir()) == sorted(["lock", long.path.name, foreign.name])


def test_a_folder_has_one_gateway(tmp_path: Path, clock: Clock) -> None:
    with store(tmp_path / "files", clock), pytest.raises(StartFailed, match="another gateway"):
        store(tmp_path / "files", clock).__enter__()
    with store(tmp_path / "files", clock):
        pass


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, clock: Clock) -> None:
    opened = tmp_path / "open"
    opened.mkdir(mode=0o755)
    with pytest.raises(ConfigRefused, match="755"):
        store(opened, clock).__enter__()
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(ConfigRefused) as refused:
            store(folder, clock).__enter__()
        assert refused.value.field == "files"
