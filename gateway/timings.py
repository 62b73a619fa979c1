"""Where a job's time went, as durations and as a `Server-Timing` header."""

from __future__ import annotations

from gateway.job import Job
from gateway.lifecycle import State

_PARTS: dict[str, tuple[State, ...]] = {
    "queue": (State.QUEUED,),
    "encode": (State.ENCODING,),
    "wait_diffuse": (State.READY, State.PAUSED),
    "diffuse": (State.DIFFUSING,),
    "wait_decode": (State.DECODE_READY,),
    "decode": (State.DECODING,),
    "finish": (State.FINISHING,),
}


def times_s(job: Job) -> dict[str, float]:
    """Seconds in each part of its life so far; "total" is their sum."""
    parts = {
        part: round(sum(job.spent_s.get(state, 0.0) for state in states), 6)
        for part, states in _PARTS.items()
    }
    return {**parts, "total": round(sum(parts.values()), 6)}


def server_timing(job: Job, *, reply_s: float) -> str:
    """The header's value: durations in milliseconds, with what the reply took behind the job's own."""
    parts = times_s(job)
    parts |= {"reply": reply_s, "total": parts.pop("total") + reply_s}
    return ", ".join(f"{part};dur={seconds * 1000:.1f}" for part, seconds in parts.items())
