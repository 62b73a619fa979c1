"""`python -m bench replay FILE`: whether this checkout's planner decides as a recorded gateway's did."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.replay import Difference, replay
from gateway.records import RecordingUnreadable, from_bytes

_MAX_SHOWN = 5


def main(argv: list[str]) -> int:
    """The exit code."""
    made = argparse.ArgumentParser(
        prog="bench replay",
        description="Tells the planner what a gateway with --record FILE told it, and compares what it says.",
        epilog="exit codes: 0 all effects are the same; 1 they are not, or it is no recording; 2 wrong flags",
    )
    made.add_argument("file", type=Path, metavar="FILE")
    file: Path = made.parse_args(argv).file
    try:
        done = replay(from_bytes(file.read_bytes()))
    except (RecordingUnreadable, OSError) as error:
        print(f"replay: {file}: {error}", file=sys.stderr)
        return 1
    for difference in done.differences[:_MAX_SHOWN]:
        print(_told(difference))
    n_other = len(done.differences)
    print(
        f"{done.n_decisions} decisions, {done.n_effects} effects; {n_other or 'none'} of the decisions differ"
    )
    return 1 if n_other else 0


def _told(difference: Difference) -> str:
    lines = [f"decision {difference.number} at {difference.at_s:.3f} s:"]
    both = set(difference.recorded) & set(difference.replayed)
    lines += [f"  recorded: {effect}" for effect in difference.recorded if effect not in both]
    lines += [f"  replayed: {effect}" for effect in difference.replayed if effect not in both]
    return "\n".join(lines if len(lines) > 1 else [*lines, "  the same effects in another order"])
