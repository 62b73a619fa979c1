from __future__ import annotations

import hashlib
import hmac
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.api_keys import ApiKey, KeyRing, digest_of, load_keys, new_key, store_keys
from gateway.errors import ConfigRefused

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TRIPTYCH_")]:
        monkeypatch.delenv(name)


def added(file: Path, capsys: pytest.CaptureFixture[str], name: str, *flags: str) -> str:
    assert main(["keys", "add", name, *flags, "--api-keys", str(file)]) == 0
    return capsys.readouterr().out.strip()


def listed(file: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["keys", "list", "--api-keys", str(file)]) == 0
    return capsys.readouterr().out.splitlines()


def stored(file: Path, *keys: ApiKey) -> None:
    store_keys(file, keys)


def key_of(name: str, key: str, expires: datetime | None = None) -> ApiKey:
    return ApiKey(name=name, sha256=digest_of(key), expires=expires)


def test_a_key_is_printed_once_and_kept_as_a_hash(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = added(file, capsys, "alice")
    assert len(key) >= 43
    assert key not in file.read_text()
    assert hashlib.sha256(key.encode()).hexdigest() in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert listed(file, capsys) == ["alice, client"]
    assert list(file.parent.iterdir()) == [file]


def test_what_a_key_may_have(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added(file, capsys, "root", "--admin", "--max-in-flight", "3", "--days", "2")
    (key,) = load_keys(file)
    assert (key.scope, key.max_in_flight) == ("admin", 3)
    assert key.expires is not None
    assert timedelta(days=1.9) < key.expires - datetime.now(UTC) <= timedelta(days=2)
    assert listed(file, capsys)[0].startswith("root, admin, at most 3 in flight, expires 20")
    added(file, capsys, "late", "--days=-1")
    assert ", expired 20" in listed(file, capsys)[1]


def test_keys_are_removed_by_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added(file, capsys, "alice")
    added(file, capsys, "bob")
    assert main(["keys", "remove", "alice", "--api-keys", str(file)]) == 0
    assert listed(file, capsys) == ["bob, client"]
    assert main(["keys", "remove", "alice", "--api-keys", str(file)]) == 1
    assert main(["keys", "add", "bob", "--api-keys", str(file)]) == 1
    assert "there is a key bob already" in capsys.readouterr().err


def test_the_file_is_found_like_the_gateways(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = file.with_name("triptych.toml")
    config.write_text(f'api_keys = "{file}"')
    assert main(["keys", "add", "a", "--config", str(config)]) == 0
    monkeypatch.setenv("TRIPTYCH_API_KEYS", str(file))
    assert main(["keys", "add", "b"]) == 0
    assert [key.name for key in load_keys(file)] == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("add alice", "api_keys: name the file"),
        ("add a/b --api-keys {file}", "keys add: "),
        ("add alice --max-in-flight 0 --api-keys {file}", "keys add: "),
        ("add alice --days 1e9 --api-keys {file}", "keys add: --days"),
        ("add alice --api-keys /no/such/folder/keys", "api_keys: /no/such/folder/keys cannot be written"),
        ("list --api-keys {file}", "api_keys: {file} cannot be read: No such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *words.format(file=file).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gateway: {said.format(file=file)}")
    assert error.count("\n") == 1


def test_two_who_add_at_once_both_do(file: Path) -> None:
    # through the lock, not through luck: each reads what the other has written
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: main(["keys", "add", f"k{n}", "--api-keys", str(file)]), range(16)))
    assert codes == [0] * 16
    assert len(load_keys(file)) == 16


def test_a_file_that_was_there_keeps_its_mode(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added(file, capsys, "alice")
    file.chmod(0o640)
    link = file.with_name("link.toml")
    link.symlink_to(file)
    added(link, capsys, "bob")
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert len(load_keys(file)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[[key]]\nname = 'a'\nsha256 = 'short'",
        "[[key]]\nname = 'a'",
        "[[key]]\nname = 'a'\nsha256 = '{hash}'\nscope = 'root'",
        "[[key]]\nname = 'a'\nsha256 = '{hash}'\nsecret = 1",
        "[[key]]\nname = 'a'\nsha256 = '{hash}'\nexpires = 2030-01-01T00:00:00",
        "[[key]]\nname = 'a'\nsha256 = '{hash}'\n[[key]]\nname = 'b'\nsha256 = '{hash}'",
        "[[keys]]\nname = 'a'\nsha256 = '{hash}'",
        "not toml",
    ],
)
def test_files_that_are_refused(file: Path, text: str) -> None:
    file.write_text(text.format(hash=digest_of("x")))
    file.chmod(0o600)
    with pytest.raises(ConfigRefused, match=r"^api_keys: .*keys.toml"):
        KeyRing(file)


def test_a_file_that_others_may_write_is_refused(file: Path) -> None:
    stored(file, key_of("a", "x"))
    for mode in (0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(ConfigRefused, match="can be written by others"):
            KeyRing(file)


def test_a_file_that_others_may_read_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored(file, key_of("a", "x"))
    file.chmod(0o644)
    KeyRing(file)
    assert "can be read by others" in caplog.text


def test_the_holder_of_a_key(file: Path) -> None:
    keys = {name: new_key() for name in ("a", "b", "c")}
    stored(file, *(key_of(name, key) for name, key in keys.items()))
    ring = KeyRing(file)
    for name, key in keys.items():
        holder = ring.holder(key)
        assert holder is not None
        assert holder.name == name
    for other in ("", keys["a"][:-1], keys["a"] + "x", digest_of(keys["a"]), "\udcff", "ключ"):
        assert ring.holder(other) is None


def test_every_hash_is_compared(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that how long it takes does not tell which one it was, or whether it was one."""
    stored(file, *(key_of(name, name) for name in ("a", "b", "c")))
    ring = KeyRing(file)
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for presented in ("a", "c", "none"):
        ring.holder(presented)
    assert compared == [digest_of(name) for name in ("a", "b", "c")] * 3


def test_a_key_expires(file: Path) -> None:
    stored(file, key_of("a", "x", expires=NOW))
    now = NOW - timedelta(seconds=1)
    ring = KeyRing(file, now=lambda: now)
    assert ring.holder("x") is not None
    now = NOW
    assert ring.holder("x") is None


def test_a_change_holds_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stored(file, key_of("a", "x"))
    ring = KeyRing(file)
    stored(file, key_of("b", "y"))
    assert ring.holder("x") is None
    assert ring.holder("y") is not None
    assert "new: b; gone: a" in caplog.text


def test_a_file_that_breaks_changes_nothing_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored(file, key_of("a", "x"))
    ring = KeyRing(file)
    file.write_text("not toml")
    assert ring.holder("x") is not None
    assert ring.holder("x") is not None
    assert caplog.text.count("the API keys stay as they were") == 1
    file.unlink()
    assert ring.holder("x") is not None
    assert caplog.text.count("the API keys stay as they were") == 2
    stored(file, key_of("b", "y"))
    assert ring.holder("x") is None
    assert ring.holder("y") is not None


def test_without_a_key_nobody_calls(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored(file)
    assert KeyRing(file).holder("x") is None
    assert "has no key" in caplog.text
