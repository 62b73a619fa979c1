"""Rows of a result as they are measured: one JSON line each, so that what was measured outlives the command.

A row compares variants of one thing on the same inputs. Its times are of one command, whose ceilings (`copy`
and `matmul`) are of the same command too: no figure is compared with one of another day.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """`times_s`: by variant, in the order they were taken. `failed`: why a variant has none.

    `n_flop`, `n_bytes`: of the least work, for the share of the roofline; 0 if that is not told.
    `peak_bytes`: beyond weights and inputs. `quality`: how exact each variant is, in `quality_unit`. `host`:
    what it was measured on.
    """

    section: str
    name: str
    times_s: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    n_flop: float = 0.0
    n_bytes: float = 0.0
    peak_bytes: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    quality_unit: str = ""
    host: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A row to measure; `measure` fills it in. Jobs of a section go from the most to the least important."""

    section: str
    name: str
    measure: Callable[[Row], None]


def read(file: Path) -> list[Row]:
    """The rows of `file`, none if there is none. A last line that was cut off is left out."""
    rows = []
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(Row(**json.loads(line)))
        except json.JSONDecodeError:
            continue
    return rows


def run(
    jobs: list[Job],
    file: Path,
    host: dict[str, Any],
    section_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Row]:
    """Measures the jobs whose rows `file` does not have on this host, and appends each row.

    A section begins no new row once it has taken `section_s`. A row that fails as a whole is told under
    "everything" and kept, so that the next command goes on behind it.
    """
    have = {(row.section, row.name) for row in read(file) if row.host == host}
    started_s: dict[str, float] = {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if (job.section, job.name) in have:
            continue
        if clock() - started_s.setdefault(job.section, clock()) >= section_s:
            continue
        row = Row(job.section, job.name, host=host)
        try:
            job.measure(row)
        except Exception as error:  # whatever a driver or a compiler raises: the other rows are still wanted
            row.failed["everything"] = f"{type(error).__name__}: {str(error)[:300]}"
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(row)) + "\n")
        yield row
