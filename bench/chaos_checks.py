"""What a node must show that lost workers under load, or the run fails; and what is reported of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.chaos import Chaos, Disturbed, Event, Kill, is_bitwise, ready_at_s
from bench.demo_checks import Check
from bench.load import Result
from bench.stats import percentiles


def checks(chaos: Chaos) -> tuple[Check, ...]:
    """All of them, in the order of the report."""
    run = chaos.disturbed
    return (
        answered(run.results),
        counted(run),
        same_pictures(run.results, chaos.calm),
        recovered(run, chaos.plan.min_kills),
        nothing_left(run),
    )


def answered(results: Sequence[Result]) -> Check:
    """Every client that stayed got its pictures, or what it had asked for itself: to be dropped when late."""
    wrong = [result for result in results if _outcome(result) == "failed"]
    counts = Counter(_outcome(result) for result in results)
    text = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("answered", "left", "dropped", "failed"))
    if wrong:
        text += f"; request {wrong[0].index + 1}: {wrong[0].error}"
    return Check(name="every request answered", passed=counts["answered"] > 0 and not wrong, text=text)


def counted(run: Disturbed) -> Check:
    """The gateway's books: one line for each request that it took, and each reply belongs to one of them."""
    lines = Counter(event["request"] for event in run.journal if event["event"] == "request")
    replies = Counter(result.request_id for result in run.results if result.status is not None)
    problems = [f"{name} ended {n} times" for name, n in lines.items() if n != 1]
    problems += [f"{name} answered {n} requests" for name, n in replies.items() if n != 1]
    problems += [f"the reply {name!r} is in no book" for name in replies.keys() - lines.keys()]
    n_left = sum(result.left for result in run.results)
    if not 0 <= (n_unread := len(lines) - len(replies)) <= n_left:
        problems.append(f"{n_unread} requests ended without a reply, {n_left} clients left")
    if run.counted != len(lines):
        problems.append(f"/metrics counts {run.counted:.0f} requests, the journal {len(lines)}")
    text = f"{len(lines)} requests in the gateway's books, each once; {len(replies)} replies, each to one"
    return Check(name="once each", passed=not problems, text="; ".join(problems[:5]) or text)


def same_pictures(results: Sequence[Result], calm: dict[int, Result]) -> Check:
    """Pictures that were to be bitwise exact are those of the undisturbed run, byte for byte."""
    exact = [result for result in results if result.ok and is_bitwise(result.request)]
    differ = [r for r in exact if r.index not in calm or calm[r.index].pictures != r.pictures]
    n_pictures = sum(len(result.pictures) for result in exact)
    text = f"{n_pictures} pictures of {len(exact)} bitwise requests are those of an undisturbed run"
    if differ:
        first = differ[0].index
        text = f"{len(differ)} of {len(exact)} bitwise requests differ, the first is {first + 1}"
        if first in calm and calm[first].error:
            text += f", which failed in the undisturbed run: {calm[first].error}"
    return Check(name="same pictures", passed=bool(exact) and not differ, text=text)


def recovered(run: Disturbed, min_kills: int) -> Check:
    """Every killed worker came back, and no other was lost."""
    times_s = [recovery_s(run.journal, kill) for kill in run.kills]
    lost = [kill for kill, time_s in zip(run.kills, times_s, strict=True) if time_s is None]
    passed = len(run.kills) >= min_kills and not lost and run.restarts == len(run.kills)
    text = f"{len(run.kills)} kills, {run.restarts:.0f} restarts, {len(lost)} workers did not come back"
    return Check(name="workers recovered", passed=passed, text=text)


def nothing_left(run: Disturbed) -> Check:
    """No file in the store that nobody owns, and after the stop no process, folder or port."""
    problems = list(run.problems)
    # fewer than before are no leak: the outputs of warm-ups, which are kept, may be of others afterwards
    if run.left_bytes > 0:
        problems.insert(0, f"{run.left_bytes:.0f} bytes are left in the handoff store")
    text = "; ".join(problems) or "no handoff file, no process, no folder in shared memory, no open port"
    return Check(name="nothing left", passed=not problems, text=text)


def recovery_s(journal: Sequence[Event], kill: Kill) -> float | None:
    """From the kill until its worker could run every stage again; None if it never could."""
    events = [event for event in journal if _at_s(event) > kill.at_s]
    n_stages = len({event["stage"] for event in journal if event["event"] == "stage"})
    # up to when it was lost again, if it was
    losses = [i for i, event in enumerate(events) if _is_loss(event, kill.worker)]
    ready_s = ready_at_s(events[: losses[1]] if len(losses) > 1 else events, kill.worker, n_stages)
    return None if ready_s is None else ready_s - kill.at_s


def noticed_s(journal: Sequence[Event], kill: Kill) -> float | None:
    """From the kill until the gateway knew."""
    losses = (e["at_s"] for e in journal if _is_loss(e, kill.worker) and e["at_s"] > kill.at_s)
    return next((at_s - kill.at_s for at_s in losses), None)


def _is_loss(event: Event, worker: str) -> bool:
    return (event["event"], event.get("worker"), event.get("state")) == ("worker", worker, "dead")


def _at_s(event: Event) -> float:
    at_s: float = event["at_s"] if "at_s" in event else event["ended_at_s"]
    return at_s


def _outcome(result: Result) -> str:
    if result.ok:
        return "answered"
    if result.left:
        return "left"
    if result.code == "deadline_missed" and result.request.fields.get("drop_if_late"):
        return "dropped"
    return "failed"


def report(chaos: Chaos) -> dict[str, Any]:
    """The numbers, raw and summed up."""
    plan, run = chaos.plan, chaos.disturbed
    exact = [result for result in run.results if result.index in chaos.calm]
    return {
        "benchmark": "chaos",
        "question": "Does anyone lose a picture when workers are killed and hang?",
        "model": plan.name,
        "workers": plan.n_workers,
        "n": len(run.results),
        "n_pictures": sum(len(result.pictures) for result in run.results),
        "concurrency": plan.concurrency,
        "kill_every_s": plan.kill_every_s,
        "heartbeat_timeout_s": plan.heartbeat_timeout_s,
        "seed": plan.seed,
        "took_s": round(run.took_s, 1),
        "passed": all(check.passed for check in checks(chaos)),
        "checks": [
            {"name": check.name, "passed": check.passed, "text": check.text} for check in checks(chaos)
        ],
        "retries": run.retries,
        "kills": [
            {
                "worker": kill.worker,
                "how": kill.how,
                "at_s": round(kill.at_s, 3),
                "noticed_s": _rounded(noticed_s(run.journal, kill)),
                "recovery_s": _rounded(recovery_s(run.journal, kill)),
            }
            for kill in run.kills
        ],
        "latency_s": {
            "killed": percentiles([result.latency_s for result in exact], 20, 50, 80, 95),
            "undisturbed, bitwise requests only": percentiles(
                [calm.latency_s for calm in chaos.calm.values()], 20, 50, 80, 95
            ),
        },
        "raw": [
            {
                "n": result.request.n,
                "size": result.request.size,
                "steps": result.request.steps,
                **result.request.fields,
                "outcome": _outcome(result),
                "status": result.status,
                "latency_s": round(result.latency_s, 3),
                "request": result.request_id,
            }
            for result in run.results
        ],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
