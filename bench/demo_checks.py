"""What the demo must show, or it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.journal import PlacementChange
from bench.load import Result


@dataclass(frozen=True, kw_only=True)
class Check:
    """One claim of the demo. `text` says what was found."""

    name: str
    passed: bool
    text: str


def check_requests(results: Sequence[Result]) -> Check:
    """Every request got all its pictures."""
    failed = [result for result in results if not result.ok]
    if not results or failed:
        first = f"; request {failed[0].index + 1}: {failed[0].error}" if failed else ""
        text = f"{len(failed)} of {len(results)} requests failed{first}"
    else:
        n_pictures = sum(len(result.pictures) for result in results)
        text = f"all {len(results)} requests answered, {n_pictures} pictures"
    return Check(name="requests", passed=bool(results) and not failed, text=text)


def check_same_pictures(colocated: Sequence[Result], split: Sequence[Result]) -> Check:
    """Both phases asked for the same and got the same bytes."""
    differ: list[str] = []
    n_same = 0
    for one, other in zip(colocated, split, strict=True):
        if one.request != other.request:
            raise ValueError(f"request {one.index + 1} is not the same in both phases")
        pairs = list(zip(one.pictures, other.pictures, strict=False))
        n_equal = sum(a == b for a, b in pairs)
        n_same += n_equal
        if n_equal != one.request.n:
            differ.append(f"{one.index + 1} ({one.request.prompt})")
    if differ:
        text = f"pictures of co-located and split stages differ: request {', '.join(differ)}"
    else:
        text = f"co-located and split stages made the same {n_same} pictures, byte for byte"
    return Check(name="same pictures", passed=not differ and n_same > 0, text=text)


def check_placement_changed(
    changes: Sequence[PlacementChange], *, first_sent_s: float, last_ended_s: float
) -> Check:
    """The gateway's own rule moved stages, with a reason, between the first request and the last reply."""
    serving = [change for change in changes if first_sent_s <= change.at_s <= last_ended_s and change.reason]
    n = len(serving)
    text = (
        f"the stages' places changed {n} {'time' if n == 1 else 'times'} while serving, by the gateway's rule"
    )
    if not serving:
        text = "no placement change with a reason happened while serving"
    return Check(name="placement", passed=bool(serving), text=text)
