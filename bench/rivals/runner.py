"""Runs the works of a grid in several processes. Each result is a line of a file as soon as it is there, so
that a run that was cut off goes on where it was.

The file's first line says what the results are of; another grid, or another commit, does not go on in it.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rivals.grid import BOUND, Key, Work
from bench.rivals.rows import COLUMNS, Row, bound_row, from_list, row_of
from bench.simulate import EffectRefused
from bench.simulate.cell import run_cell


class CannotGoOn(Exception):
    """The file is of something else, or cannot be read."""


def run_all(
    works: Sequence[Work],
    file: Path,
    label: Mapping[str, Any],
    *,
    n_processes: int,
    on_row: Callable[[Row, int], None] = lambda row, n_left: None,
) -> list[Row]:
    """Rows in the order of `works`; those that `file` has are not made again.

    `label`: what must be equal to go on, as JSON has it. `on_row` hears of each new row and how many are to
    come. Raises `CannotGoOn`, `EffectRefused`. Interrupted, it leaves `file` so that it can go on.
    """
    header = {"columns": list(COLUMNS), **label}
    found = _begun(file, header)
    todo = [work for work in works if work.key not in found]
    if todo:
        # spawned: a forked child would inherit whatever threads and locks this process has
        new_pool = multiprocessing.get_context("spawn").Pool
        with file.open("a", encoding="utf-8") as lines, new_pool(n_processes) as pool:
            for n_done, row in enumerate(pool.imap_unordered(run_one, todo), 1):
                lines.write(json.dumps(row.as_list(), separators=(",", ":")) + "\n")
                lines.flush()
                # read back, so that a run that went on has the same figures as one that did not
                found[row.key] = from_list(json.loads(json.dumps(row.as_list())))
                on_row(row, len(todo) - n_done)
    return [found[work.key] for work in works]


def run_one(work: Work) -> Row:
    """The simulation, or the bound. Raises `EffectRefused`."""
    cell = work.cell()
    began_s = time.thread_time()
    if work.policy == BOUND:
        bounded = cell.bounded()
        return bound_row(work.key, bounded, time.thread_time() - began_s)
    try:
        report = run_cell(cell, work.policy)
    except EffectRefused as error:
        raise EffectRefused(f"{work.policy} on {cell.label()}: {error}") from error
    return row_of(work.key, report, time.thread_time() - began_s)


def _begun(file: Path, header: Mapping[str, Any]) -> dict[Key, Row]:
    """What the file has; it is begun if it is not there."""
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(header, separators=(",", ":")) + "\n", "utf-8")
        return {}
    except OSError as error:
        raise CannotGoOn(f"{file}: {error.strerror}") from error
    whole, _, cut = text.rpartition("\n")
    if cut:
        # the line during which it was cut off
        file.write_text(whole + "\n", "utf-8")
    lines = whole.splitlines()
    try:
        begun = json.loads(lines[0])
        rows = [from_list(json.loads(line)) for line in lines[1:]]
    except (IndexError, ValueError, TypeError) as error:
        raise CannotGoOn(f"{file} is no file of results: {error!r}") from error
    if begun != json.loads(json.dumps(header)):
        other = sorted(name for name in {*begun, *header} if begun.get(name) != header.get(name))
        raise CannotGoOn(
            f"{file} was begun with another {', '.join(other)}: remove it or give another --name"
        )
    return {row.key: row for row in rows}
