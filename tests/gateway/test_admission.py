"""What the planner refuses or makes cheaper, and what becomes of the request."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.jobs import Outcome
from planner.types import Degrade, Effect, Reject, Run
from tests.gateway.conftest import Bench, Start, until
from tests.gateway.test_recovery import assert_clean
from tests.gateway.test_serving import error_of
from wire.to_worker import RunTask


def seeds(bench: Bench) -> list[int]:
    return [task.generation.seed for task in bench.fleet.tasks()]


async def known(start: Start, *fates: tuple[str, str], **fields: Any) -> Bench:
    """A gateway that has seen what a picture costs: 10 ms a stage, by its workers' words."""
    bench = await start(n_workers=1, **fields)
    assert (await bench.post(seed=1, num_inference_steps=1)).status == 200
    for stage, fate in fates:
        bench.fleet.fates.add(stage, fate)
    return bench


async def test_what_cannot_be_in_time_is_refused_before_anything_is_sent(start: Start) -> None:
    bench = await known(start)
    response = await bench.post(seed=5, n=4, slo_ms=5)
    assert response.status == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert response.headers["X-Should-Retry"] == "true"
    error = await error_of(response)
    assert (error["code"], error["type"], error["param"]) == (
        "deadline_infeasible",
        "rate_limit_error",
        "slo_ms",
    )
    assert seeds(bench) == [1]
    counts = bench.engine.book.statistics()
    assert (counts["requests_rejected"], counts["requests_done"], counts["open"]) == (1, 1, 0)
    bench.engine.book.check()
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_requests_total{code="deadline_infeasible",model="toy",outcome="rejected"} 1.0' in text
    assert 'triptych_planner_effects_total{effect="reject",model="toy",reason="hopeless"} 1.0' in text
    await assert_clean(bench)


async def test_a_known_encode_is_given_back_by_a_refusal(start: Start) -> None:
    bench = await known(start, encode_cache_bytes=1 << 20)
    assert bench.engine.encodes.statistics()["entries"] == 1
    assert (await bench.post(slo_ms=1)).status == 429
    # the cache is the only owner again
    await assert_clean(bench)


async def test_first_runs_alone_refuse_nobody(start: Start) -> None:
    bench = await start(n_workers=1)
    assert (await bench.post(slo_ms=1)).status == 200


async def test_who_names_no_deadline_is_not_refused(start: Start) -> None:
    bench = await known(start)
    assert (await bench.post(priority="interactive", num_inference_steps=50)).status == 200


async def test_one_that_was_begun_and_cannot_be_in_time_any_more_is_dropped(start: Start) -> None:
    bench = await known(start, ("denoise", "hold"))
    posted = bench.posted(seed=7, slo_ms=60_000, drop_if_late=True)
    await until(lambda: seeds(bench)[-1] == 7)
    (job,) = bench.engine.book
    (request,) = bench.engine.book.open_requests
    # as if it waited for another worker now
    job.task_id = None
    bench.engine.desk.reject(job, "takes 2.00 s at best", retry_after_s=3.0)
    response = await posted
    assert (response.status, (await error_of(response))["code"]) == (504, "deadline_missed")
    assert request.outcome is Outcome.CANCELLED
    bench.fleet.release.set()
    await assert_clean(bench)


async def test_fewer_steps_for_who_agreed(start: Start) -> None:
    bench = await known(start)
    # 20 ms beside the loop, 10 ms a step: 40 steps take 420 ms
    response = await bench.post(seed=5, num_inference_steps=40, slo_ms=350, allow_degraded=True)
    assert response.status == 200
    reply = await response.json()
    assert reply["exactness"] == "approximate"
    assert "quality" not in reply
    (made,) = [task.generation.num_inference_steps for task in bench.fleet.tasks()[1:]]
    assert 20 <= made < 40
    assert reply["data"][0]["num_inference_steps"] == made
    text = await (await bench.client.get("/metrics")).text()
    assert 'triptych_planner_effects_total{effect="degrade",model="toy",reason="fewer_steps"} 1.0' in text


@pytest.mark.parametrize("fields", [{}, {"allow_degraded": True, "exactness": "numeric"}])
async def test_no_fewer_steps_for_who_did_not(start: Start, fields: dict[str, Any]) -> None:
    bench = await known(start)
    response = await bench.post(num_inference_steps=40, slo_ms=350, **fields)
    assert response.status == 429


async def test_too_few_steps_to_help_is_a_refusal(start: Start) -> None:
    bench = await known(start)
    response = await bench.post(num_inference_steps=40, slo_ms=100, allow_degraded=True)
    assert (response.status, (await error_of(response))["code"]) == (429, "deadline_infeasible")
    assert seeds(bench) == [1]


async def test_what_does_not_fit_is_not_done(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody agreed to fewer steps, and a running job is not refused."""
    bench = await start(("denoise", "hold"), n_workers=1)
    posted = bench.posted()
    await until(lambda: any(job.state == "diffusing" for job in bench.engine.book))
    (job,) = bench.engine.book
    wrong: tuple[Effect, ...] = (
        Degrade(job=job.job_id, steps=2),
        Reject(job=job.job_id, retry_after_s=1.0),
        Run(stages=("decode",), jobs=(job.job_id,), workers=("cpu-0",)),
        Run(stages=("denoise", "decode"), jobs=(job.job_id,), workers=("cpu-0", "cpu-0"), degree=2),
    )
    decide = bench.engine.planner.decide
    bench.engine.planner.decide = lambda observation: wrong  # type: ignore[method-assign]
    bench.engine._dirty.set()
    await until(lambda: caplog.text.count("does not fit what it was shown") >= len(wrong))
    bench.engine.planner.decide = decide  # type: ignore[method-assign]
    assert job.is_open
    assert job.steps == 4
    assert [type(message) for message in bench.fleet.heard["cpu-0"]].count(RunTask) == 4
    bench.fleet.release.set()
    assert (await posted).status == 200
