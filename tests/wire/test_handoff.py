"""The handoff store: whole or not at all, bounded over processes, gone when freed."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from wire.errors import HandoffLost, StoreFull
from wire.handle import Handle
from wire.handoff import HandoffStore


@pytest.fixture
def store(tmp_path: Path) -> HandoffStore:
    return HandoffStore(tmp_path / "store", node="here", capacity_bytes=1000)


def test_put_get_free(store: HandoffStore) -> None:
    handle = store.put(b"latents")
    assert (handle.n_bytes, store.get(handle), store.used_bytes()) == (7, b"latents", 7)
    store.free(handle)
    store.free(handle)
    assert store.used_bytes() == 0
    with pytest.raises(HandoffLost):
        store.get(handle)


def test_the_folder_is_private(tmp_path: Path, store: HandoffStore) -> None:
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_the_bound_holds_and_leaves_nothing(store: HandoffStore) -> None:
    first = store.put(b"x" * 600)
    with pytest.raises(StoreFull, match="600 of 1000"):
        store.put(b"x" * 401)
    assert store.used_bytes() == 600
    store.free(first)
    store.put(b"x" * 401)


def test_a_cut_file_is_lost_not_half_read(tmp_path: Path, store: HandoffStore) -> None:
    handle = store.put(b"latents")
    (tmp_path / "store" / handle.name).write_bytes(b"lat")
    with pytest.raises(HandoffLost, match="3 bytes"):
        store.get(handle)


def test_sweep_keeps_what_open_jobs_name(store: HandoffStore) -> None:
    kept, dropped = store.put(b"a"), store.put(b"b")
    assert store.sweep([kept]) == 1
    assert store.get(kept) == b"a"
    with pytest.raises(HandoffLost):
        store.get(dropped)


def test_what_a_lost_task_wrote_is_found(tmp_path: Path, store: HandoffStore) -> None:
    told, untold = (store.put(b"a", task_id="task-1") for _ in range(2))
    other, nobody = store.put(b"b", task_id="task-10"), store.put(b"c")
    draft = tmp_path / "store" / ".task-1.0123"
    draft.write_bytes(b"hal")
    assert store.free_task("task-1", keep={told.name}) == 2
    assert [store.get(handle) for handle in (told, other, nobody)] == [b"a", b"b", b"c"]
    assert not draft.exists()
    with pytest.raises(HandoffLost):
        store.get(untold)


@pytest.mark.parametrize("name", ["../../secret", "/absolute", ".lock", "", "task.", "a.b.c", "a/b"])
def test_a_handle_cannot_leave_the_folder(store: HandoffStore, name: str) -> None:
    with pytest.raises(HandoffLost):
        store.get(Handle(node="here", name=name, n_bytes=1))


def test_a_handle_of_another_node_is_refused(store: HandoffStore) -> None:
    handle = store.put(b"a")
    with pytest.raises(HandoffLost, match="elsewhere"):
        store.get(Handle(node="elsewhere", name=handle.name, n_bytes=1))


def _fill(folder: Path, wins: multiprocessing.Queue[int]) -> None:
    store = HandoffStore(folder, node="here", capacity_bytes=1000)
    written = 0
    for _ in range(50):
        try:
            store.put(b"x" * 30)
        except StoreFull:
            continue
        written += 1
    wins.put(written)


def test_the_bound_holds_over_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    wins: multiprocessing.Queue[int] = context.Queue()
    writers = [context.Process(target=_fill, args=(tmp_path / "store", wins)) for _ in range(3)]
    for writer in writers:
        writer.start()
    total = sum(wins.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join(timeout=60)
    assert total == 1000 // 30
    assert HandoffStore(tmp_path / "store", node="here", capacity_bytes=1000).used_bytes() == total * 30
