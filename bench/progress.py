"""Shows how far a phase is: a bar on a terminal, one plain line for each request elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bench.load import Result

_PLAIN_WIDTH = 110


def make_console() -> Console:
    """Output that is no terminal gets a fixed width, so that tables do not wrap."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH, soft_wrap=False)


class Show:
    """What a phase reports to; `phase` makes one."""

    def __init__(self, console: Console, progress: Progress | None, total: int | None) -> None:
        self._console = console
        self._progress = progress
        self._total = total
        self._n_done = 0
        self._status = ""
        if progress is not None:
            self._task = progress.add_task("", total=total)

    @property
    def is_live(self) -> bool:
        """Whether a status replaces the one before, so that it may change often."""
        return self._progress is not None

    def status(self, text: str) -> None:
        """What is going on now; told once however often it is said."""
        if text == self._status:
            return
        self._status = text
        if self._progress is not None:
            self._progress.update(self._task, description=text)
        else:
            self._console.print(f"  {text}", markup=False)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(f"  {text}", markup=False)

    def done(self, result: Result) -> None:
        """One request has ended."""
        self._n_done += 1
        if self._progress is not None:
            self._progress.update(self._task, advance=1)
            return
        place = f"{self._n_done}/{self._total}" if self._total else f"{self._n_done}"
        request = result.request
        outcome = f"{result.latency_s * 1000:.0f} ms" if result.ok else f"FAILED: {result.error}"
        self._console.print(
            f"  {place}: {request.prompt} n={request.n}, {request.steps} steps: {outcome}", markup=False
        )


@contextlib.contextmanager
def phase(console: Console, title: str, total: int | None) -> Iterator[Show]:
    """One phase; `total` requests, None if nobody knows yet."""
    console.print(f"\n[bold]{title}[/bold]")
    if not console.is_terminal:
        yield Show(console, None, total)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Show(console, progress, total)
