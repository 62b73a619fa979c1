"""Parts that the tables of several results share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines of a table, the first column to the left."""
    aligned = "|".join(["---", *["---:"] * (len(headers) - 1)])
    return [f"| {' | '.join(headers)} |", f"|{aligned}|", *(f"| {' | '.join(row)} |" for row in rows)]


def host_line(result: dict[str, Any]) -> str:
    """What it was measured on."""
    load = result["load_average"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{result['device']} ({result['cpu']}, {result['cores']} cores), {result['threads']} threads; load"
        f" average {load['before']} before, {load['after']} after. {versions}. Commit {result['commit']}."
    )
