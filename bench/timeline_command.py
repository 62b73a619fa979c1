"""`python -m bench timeline FILE`: a journal, of a gateway or of a simulation, as a picture."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

from bench.journal import Journal, JournalUnreadable, placement_changes, read_journal
from bench.timeline import Panel, panel
from bench.timeline_plot import draw


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench timeline",
        description="Draws who ran which stage when, and when places changed, from a journal: of a"
        " gateway with --journal FILE, or of bench simulate --save FILE.",
        epilog="exit codes: 0 drawn; 1 the file is no journal, or has nothing in that time; 2 a wrong flag",
    )
    add = made.add_argument
    add("file", type=Path, metavar="FILE")
    add("--from-s", type=float, default=0.0, metavar="S", help="behind the first stage's start (0)")
    add("--span-s", type=float, default=math.inf, metavar="S", help="how much of it (all)")
    add("--workers", type=int, default=16, metavar="N", help="the first ones (16)")
    add("--out", type=Path, metavar="FILE", help="a PNG (FILE with -timeline.png)")
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    flags = parser().parse_args(argv)
    out = flags.out or flags.file.with_name(f"{flags.file.stem}-timeline.png")
    try:
        made = panel_of(
            read_journal(flags.file), from_s=flags.from_s, span_s=flags.span_s, n_workers=flags.workers
        )
        if made is None:
            print(f"timeline: {flags.file}: no stage ran in that time", file=sys.stderr)
            return 1
        draw(out, "Who runs which stage, and when", str(flags.file), [made])
    except (JournalUnreadable, OSError) as error:
        print(f"timeline: {error}", file=sys.stderr)
        return 1
    print(f"written: {out}")
    return 0


def panel_of(journal: Journal, *, from_s: float, span_s: float, n_workers: int) -> Panel | None:
    """Stages that began within `span_s` from `from_s` on, on the first workers; None if there are none.

    Blocks are labelled by the job's number, in the order in which jobs first ran.
    """
    served = [span for span in journal.stages if span.job is not None]
    if not served:
        return None
    begin_s = min(span.started_s for span in served) + from_s
    names = sorted(journal.workers)[:n_workers]
    shown = tuple(
        span for span in served if span.worker in names and begin_s <= span.started_s <= begin_s + span_s
    )
    if not shown:
        return None
    ordered = dict.fromkeys(span.job or "" for span in sorted(served, key=lambda span: span.started_s))
    # a gang's further members run "job@worker"
    numbers: dict[str, int] = {}
    labels = {job: str(numbers.setdefault(job.partition("@")[0], len(numbers) + 1)) for job in ordered}
    changes = [
        change
        for change in placement_changes(journal.effects, since_s=begin_s)
        if change.at_s <= max(span.ended_s for span in shown)
    ]
    return panel(
        f"{len({span.request for span in shown})} requests on {len(names)} of {len(journal.workers)} workers",
        replace(journal, workers=tuple(names), stages=shown),
        labels,
        start_s=begin_s,
        changes=changes,
    )
