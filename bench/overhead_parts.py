"""Where one request's time went, from the client's clock, the journal and the worker's own stamps.

All three are the node's monotonic clock, so the parts add up to the latency exactly.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.journal import Journal, StageSpan
from bench.load import Result

PARTS = (
    "HTTP, validation",
    "queue, dispatch",
    "unpack, pack",
    "encode",
    "diffuse",
    "decode",
    "between stages",
    "PNG, store",
    "reply",
)
LOOP_PARTS = ("pipeline", "PNG", "base64")


def request_parts_ms(result: Result, journal: Journal) -> dict[str, float]:
    """The parts of a request for one picture that ran as one task, in ms. Raises `LookupError`.

    "HTTP, validation" is from sending to acceptance, "PNG, store" from the end of the decode until the
    gateway has the file's bytes, "reply" from there to the client's last byte.
    """
    end = next((end for end in journal.ends if end.request == result.request_id), None)
    spans = sorted(
        (span for span in journal.stages if span.request == result.request_id),
        key=lambda span: span.started_s,
    )
    if end is None or not spans:
        raise LookupError(f"the journal has no request {result.request_id!r}")
    first, last = spans[0], spans[-1]
    accepted_s = end.at_s - end.times_s["total"]
    busy_s = sum(span.seconds for span in spans)
    seconds = {
        "HTTP, validation": accepted_s - result.due_s,
        "queue, dispatch": first.started_s - first.overhead_s - accepted_s,
        "unpack, pack": first.overhead_s,
        **{kind: _of_kind(spans, kind) for kind in ("encode", "diffuse", "decode")},
        "between stages": last.ended_s - first.started_s - busy_s,
        "PNG, store": end.at_s - last.ended_s,
        "reply": result.due_s + result.latency_s - end.at_s,
    }
    return {part: 1000 * seconds[part] for part in PARTS}


def _of_kind(spans: Iterable[StageSpan], kind: str) -> float:
    return sum(span.seconds for span in spans if span.kind == kind)
