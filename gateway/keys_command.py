"""`python -m gateway keys`: makes, lists and removes API keys. A running gateway notices by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from gateway.api_keys import ApiKey, changing, digest_of, load_keys, new_key, store_keys
from gateway.errors import ConfigRefused
from gateway.settings import add_flag, settle

_EPILOG = """The file is that of --api-keys, of the variable TRIPTYCH_API_KEYS or of api_keys in the
--config file. A gateway that runs with it takes a change at the next request.

Exit codes: 0; 1 the key is there already, or is not there; 2 a wrong flag or file."""


def keys_command(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code. Prints a new key, once. Raises `ConfigRefused`."""
    asked = _parser().parse_args(argv)
    effective = settle({"api_keys": asked.api_keys}, environment, file=asked.config)
    file = effective.config.api_keys
    if file is None:
        raise ConfigRefused("api_keys", "name the file, by --api-keys FILE")
    match asked.action:
        case "add":
            return _add(file, asked)
        case "remove":
            return _remove(file, asked.name)
        case _:
            return _list(file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway keys",
        description="API keys: who may call the gateway.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="add|list|remove")
    add = actions.add_parser("add", help="make a key and print it", allow_abbrev=False)
    remove = actions.add_parser("remove", help="make a key hold no longer", allow_abbrev=False)
    listed = actions.add_parser("list", help="show the keys", allow_abbrev=False)
    add.add_argument("name", help="who it is for; goes to the log with every request")
    remove.add_argument("name")
    add.add_argument("--admin", action="store_true", help="may also manage models and read metrics and fleet")
    add.add_argument("--days", type=float, metavar="N", help="expires after so many days (default: never)")
    add.add_argument(
        "--max-in-flight", type=int, metavar="N", help="requests that it may have open (default: no bound)"
    )
    for action in (add, remove, listed):
        add_flag(action, "api_keys")
        action.add_argument("--config", metavar="FILE", help="the gateway's configuration file")
    return parser


def _add(file: Path, asked: argparse.Namespace) -> int:
    key = new_key()
    entry = {
        "name": asked.name,
        "sha256": digest_of(key),
        "scope": "admin" if asked.admin else "client",
        "expires": _in_days(asked.days),
        "max_in_flight": asked.max_in_flight,
    }
    try:
        made = msgspec.convert(entry, ApiKey)
    except msgspec.ValidationError as error:
        raise ConfigRefused("keys add", str(error)) from error
    with changing(file):
        keys = load_keys(file) if file.exists() else ()
        if any(known.name == made.name for known in keys):
            return _told(f"there is a key {made.name} already; remove it first")
        store_keys(file, (*keys, made))
    print(key)
    return 0


def _remove(file: Path, name: str) -> int:
    with changing(file):
        keys = load_keys(file)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            return _told(f"there is no key {name}")
        store_keys(file, left)
    return 0


def _list(file: Path) -> int:
    now = datetime.now(UTC)
    for key in load_keys(file):
        words = [key.name, key.scope]
        if key.max_in_flight is not None:
            words.append(f"at most {key.max_in_flight} in flight")
        if key.expires is not None:
            words.append(f"{'expired' if key.expires <= now else 'expires'} {key.expires:%Y-%m-%d %H:%M %Z}")
        print(", ".join(words))
    return 0


def _in_days(days: float | None) -> datetime | None:
    if days is None:
        return None
    try:
        return (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    except (OverflowError, ValueError):
        raise ConfigRefused("keys add", f"--days {days} is out of bounds") from None


def _told(problem: str) -> int:
    print(f"gateway keys: {problem}", file=sys.stderr)
    return 1
