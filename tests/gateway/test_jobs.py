"""The book: whatever happens in whatever order, each request ends once."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.encodes import Encoded
from gateway.errors import ApiError, ClientLeft, InternalError, QueueFull, StageFailed
from gateway.job import Checkpoint, Job
from gateway.jobs import JobBook, Outcome, Request
from gateway.lifecycle import Event, IllegalTransition, State
from gateway.timings import server_timing, times_s
from planner.types import Shape
from tests.gateway.toy import NODE, graph
from wire.generation import Exactness, Generation, weakest
from wire.handle import Handle

SHAPE = Shape(128, 128)


def handle(name: str) -> Handle:
    return Handle(node=NODE, name=name, n_bytes=1)


def request(n: int = 1, request_id: str = "r", arrived_s: float = 0.0) -> Request:
    jobs = tuple(
        Job(
            job_id=f"{request_id}-{i}",
            request_id=request_id,
            generation=Generation(
                prompt="a hat",
                width_px=128,
                height_px=128,
                num_inference_steps=4,
                guidance_scale=4.0,
                seed=i,
            ),
            graph=graph(),
            shape=SHAPE,
            arrived_s=arrived_s,
            deadline_s=arrived_s + 10.0,
        )
        for i in range(n)
    )
    return Request(request_id=request_id, jobs=jobs, arrived_s=arrived_s)


def run_stage(job: Job, now_s: float, output: str) -> list[Handle]:
    job.task_id = f"task-{output}"
    job.stage_started(now_s)
    job.stage_ended(now_s + 1)
    return job.keep(handle(output))


def test_a_job_goes_through_its_stages_and_its_times_add_up() -> None:
    (job,) = request().jobs
    assert run_stage(job, 1.0, "a") == []
    assert (job.state, job.pending) == (State.READY, ("denoise", "decode"))
    assert run_stage(job, 4.0, "b") == [handle("a")]
    assert run_stage(job, 8.0, "c") == [handle("b")]
    job.advance(Event.DELIVERED, 9.5)
    assert job.state is State.DONE
    assert times_s(job) == {
        "queue": 1.0,
        "encode": 1.0,
        "wait_diffuse": 2.0,
        "diffuse": 1.0,
        "wait_decode": 3.0,
        "decode": 1.0,
        "finish": 0.5,
        "total": 9.5,
    }
    assert server_timing(job, reply_s=0.25).endswith("reply;dur=250.0, total;dur=9750.0")


def test_an_illegal_event_changes_nothing() -> None:
    (job,) = request().jobs
    with pytest.raises(IllegalTransition):
        job.advance(Event.DELIVERED, 5.0)
    assert (job.state, job.entered_s, job.spent_s) == (State.QUEUED, 0.0, {})


def test_a_lost_merged_task_goes_back_to_what_is_in_the_store() -> None:
    (job,) = request().jobs
    run_stage(job, 0.0, "a")
    job.task_id = "merged"
    job.stage_started(2.0)
    job.stage_ended(3.0)
    job.stage_started(3.0)
    assert job.state is State.DECODING
    job.rewind(4.0)
    assert (job.state, job.pending, job.handoff) == (State.READY, ("denoise", "decode"), handle("a"))
    assert job.task_id is None


def test_a_lost_handoff_goes_back_to_the_start() -> None:
    (job,) = request().jobs
    run_stage(job, 0.0, "a")
    assert job.forget_all() == [handle("a")]
    job.rewind(2.0)
    assert (job.state, job.pending, job.handoff) == (State.QUEUED, graph().names, None)


def test_a_lost_loop_goes_on_from_its_newest_checkpoint() -> None:
    (job,) = request().jobs
    run_stage(job, 0.0, "a")
    job.stage_started(2.0)
    assert job.save(Checkpoint(1, handle("c1"))) == []
    assert job.save(Checkpoint(2, handle("c2"))) == [handle("c1")]
    job.rewind(3.0)
    assert (job.state, job.pending, job.view().steps_done) == (State.READY, ("denoise", "decode"), 2)
    assert run_stage(job, 4.0, "b") == [handle("c2"), handle("a")]
    assert job.view().steps_done == 0


def test_a_paused_job_keeps_its_handoff_and_goes_on() -> None:
    (job,) = request().jobs
    run_stage(job, 0.0, "a")
    job.task_id = "task"
    job.stage_started(2.0)
    assert job.pause(Checkpoint(3, handle("c")), 3.0) == []
    assert (job.state, job.handoff) == (State.PAUSED, handle("a"))
    assert job.can_run(("denoise", "decode"))
    job.stage_started(4.0)
    assert job.state is State.DIFFUSING
    assert job.forget_all() == [handle("c"), handle("a")]


def test_a_lost_checkpoint_is_the_start_of_the_loop() -> None:
    (job,) = request().jobs
    run_stage(job, 0.0, "a")
    job.stage_started(2.0)
    job.save(Checkpoint(3, handle("c")))
    assert job.forget_checkpoint() == [handle("c")]
    job.rewind(3.0)
    assert (job.state, job.handoff, job.view().steps_done) == (State.READY, handle("a"), 0)


def test_a_known_encode_result_is_the_start() -> None:
    (job,) = request().jobs
    assert job.skip_encode(Encoded(handle("a"), Exactness.NUMERIC), 1.0) == []
    assert (job.state, job.pending, job.handoff) == (State.READY, ("denoise", "decode"), handle("a"))
    assert job.exactness is Exactness.NUMERIC
    assert times_s(job)["queue"] == 1.0


def test_the_weakest_exactness_is_what_was_kept() -> None:
    assert weakest([Exactness.BITWISE]) is Exactness.BITWISE
    assert weakest([Exactness.BITWISE, Exactness.APPROXIMATE, Exactness.NUMERIC]) is Exactness.APPROXIMATE
    asked = request(2)
    asked.jobs[1].exactness = Exactness.NUMERIC
    assert asked.exactness is Exactness.NUMERIC


def test_two_deaths_in_a_stage_without_a_new_step_are_poison() -> None:
    (job,) = request().jobs
    run_stage(job, 0.0, "a")
    for step, poison in ((2, False), (3, False), (3, True)):
        job.stage_started(2.0)
        job.step_done(1)
        job.step_done(step)
        assert job.died() is poison
        job.rewind(3.0)


def test_deaths_in_different_stages_are_not_poison() -> None:
    (job,) = request().jobs
    assert not job.died()
    job.rewind(0.0)
    run_stage(job, 0.0, "a")
    assert not job.died()


def test_the_bound_is_on_jobs_that_no_worker_has() -> None:
    book = JobBook(max_queued_jobs=3)
    first = request(2, "a")
    book.accept(first, 0.0)
    refused = request(2, "b")
    with pytest.raises(QueueFull) as error:
        book.accept(refused, 1.0)
    assert error.value.retry_after_s is not None
    assert refused.outcome is Outcome.REJECTED
    assert {job.state for job in refused.jobs} == {State.REJECTED}
    first.jobs[0].task_id = "task"
    book.accept(request(2, "c"), 2.0)
    book.check()
    assert book.statistics()["accepted"] == 2
    assert book.statistics()["requests_rejected"] == 1


def test_the_first_failure_ends_the_request_and_cancels_the_rest() -> None:
    book = JobBook(max_queued_jobs=9)
    asked = request(3)
    book.accept(asked, 0.0)
    error = StageFailed("no")
    still_open = book.fail(asked.jobs[1], error, 1.0)
    assert set(still_open) == set(asked.jobs)
    assert [job.state for job in asked.jobs] == [State.CANCELLED, State.FAILED, State.CANCELLED]
    assert (asked.outcome, asked.error) == (Outcome.FAILED, error)
    book.check()


def test_the_book_notices_a_request_that_was_lost() -> None:
    book = JobBook(max_queued_jobs=9)
    asked = request()
    book.accept(asked, 0.0)
    asked.jobs[0].advance(Event.CANCELLED, 1.0)
    with pytest.raises(InternalError):
        book.check()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    moves=st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "stage",
                    "start",
                    "skip",
                    "save",
                    "pause",
                    "resume",
                    "rewind",
                    "lose",
                    "lose checkpoint",
                    "fail",
                    "cancel",
                ]
            ),
            st.integers(0, 30),
        ),
        max_size=60,
    ),
)
def test_every_accepted_request_ends_in_exactly_one_outcome(
    sizes: list[int], moves: list[tuple[str, int]]
) -> None:
    book = JobBook(max_queued_jobs=8)
    requests = [request(n, f"r{i}") for i, n in enumerate(sizes)]
    accepted = []
    for asked in requests:
        try:
            book.accept(asked, 0.0)
            accepted.append(asked)
        except QueueFull:
            assert asked.outcome is Outcome.REJECTED
    owned: set[str] = set()
    now_s = 0.0

    def freed(handles: list[Handle]) -> None:
        assert {handle.name for handle in handles} <= owned
        owned.difference_update(handle.name for handle in handles)

    def dropped(jobs: tuple[Job, ...]) -> None:
        for job in jobs:
            freed(job.forget_all())

    def in_loop(job: Job) -> bool:
        return job.state is State.DIFFUSING and job.loop_can_resume

    for number, (move, at) in enumerate(moves):
        now_s += 1.0
        if not (jobs := [job for job in book if job.is_open]):
            break
        job = jobs[at % len(jobs)]
        if move == "stage" and job.state in (State.QUEUED, State.READY, State.DECODE_READY):
            owned.add(f"h{number}")
            freed(run_stage(job, now_s, f"h{number}"))
            if not job.pending:
                freed(job.forget_all())
                book.delivered(job, b"", now_s)
        elif move == "start" and job.state in (State.QUEUED, State.READY, State.DECODE_READY):
            job.stage_started(now_s)
        elif move == "skip" and job.state is State.QUEUED:
            owned.add(f"h{number}")
            freed(job.skip_encode(Encoded(handle(f"h{number}"), Exactness.BITWISE), now_s))
        elif move in ("save", "pause") and in_loop(job):
            owned.add(f"h{number}")
            checkpoint = Checkpoint(at % 4, handle(f"h{number}"))
            freed(job.save(checkpoint) if move == "save" else job.pause(checkpoint, now_s))
        elif move == "resume" and job.state is State.PAUSED:
            job.stage_started(now_s)
        elif move == "rewind":
            job.rewind(now_s)
        elif move == "lose":
            freed(job.forget_all())
            job.rewind(now_s)
        elif move == "lose checkpoint":
            freed(job.forget_checkpoint())
            job.rewind(now_s)
        elif move == "fail":
            dropped(book.fail(job, ApiError("x"), now_s))
        elif move == "cancel":
            dropped(book.end(book.request_of(job), Outcome.CANCELLED, ClientLeft("x"), now_s))
        book.check()
        for job in book:
            # a checkpoint is of use only with what the loop began with
            assert job.checkpoint is None or (job.n_durable == job.n_encode and job.handoff is not None)
        held = [h for job in book for h in (job.handoff, job.checkpoint and job.checkpoint.handle) if h]
        assert sorted(h.name for h in held) == sorted(owned)
    for asked in book.open_requests:
        dropped(book.end(asked, Outcome.CANCELLED, ClientLeft("x"), now_s))
    book.check()
    assert not owned
    assert all(asked.outcome is not None for asked in requests)
    assert all(job.state.is_terminal for asked in requests for job in asked.jobs)
    counted = book.statistics()
    assert counted["accepted"] == len(accepted)
    assert sum(counted[f"requests_{outcome}"] for outcome in Outcome) == len(requests)
    for asked in accepted:
        assert (asked.outcome is Outcome.DONE) == all(job.state is State.DONE for job in asked.jobs)


def test_what_the_planner_sees_is_made_anew_only_when_it_has_changed() -> None:
    (job,) = request().jobs

    def fresh() -> bool:
        before = job.view()
        assert before == job._viewed()
        return job.view() is not before

    assert not fresh()
    run_stage(job, 1.0, "a")
    assert job.view().pending == ("denoise", "decode")
    job.task_id = "task"
    assert job.view().running
    job.stage_started(3.0)
    job.save(Checkpoint(2, handle("c")))
    assert (job.view().steps_done, job.view().running) == (2, True)
    job.rewind(4.0)
    assert (job.view().running, fresh()) == (False, False)
