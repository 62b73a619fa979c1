"""Loops in one batch: what each job makes is what it makes alone, within rounding, and calls are shared."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import torch

from tests.families.cases import (
    CPU,
    EMBEDDED,
    FROM_PICTURE,
    SOURCE,
    Case,
    handed_over,
    make_case,
    source_picture,
)
from wire.generation import Generation
from worker import batch
from worker.batch import Batch, LaneCrashed, Seat
from worker.checkpoint import Checkpoint
from worker.errors import StopAtBoundary
from worker.loop_tap import Capture, OnBoundary
from worker.network_call import NetworkCall, make_as_one
from worker.packing import Payload
from worker.stages import StageRun

# relative, |a - b| / |b| over the latents in float32, measured with one thread: 6e-8 to 7e-7 for the tiny
# models, to 6e-6 for the embedded one, whose guidance enlarges the rounding of a wider network
TOLERANCE = {EMBEDDED: 2e-5}
DEFAULT_TOLERANCE = 2e-6


class Left(BaseException):
    """Leaves a loop with its checkpoint."""


@dataclass
class Job:
    """One job of a batch: its loop stage from what its encode stages made, and what came of it."""

    case: Case
    generation: Generation
    on_boundary: OnBoundary = lambda done, steps, capture: None
    checkpoint: Checkpoint | None = None
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    handoff: Payload | None = None
    raised: BaseException | None = None
    was_shared: bool = False

    def encoded(self) -> Payload | None:
        picture = source_picture(self.generation)
        run = StageRun(self.case.whole, self.generation, None, picture)
        stages = self.case.stages(self.generation)
        before = stages[: stages.index(self.case.loop_stage)]
        for stage in before:
            run.run(stage)
        return handed_over(run.payload(before[-1]))

    def encode(self, lane: Seat | None = None) -> None:
        """Its encode stages only; `handoff` is what they made."""
        run = StageRun(self.case.whole, self.generation, None, source_picture(self.generation))
        if lane is not None:
            run.divert(lane.through)
        stages = self.case.stages(self.generation)
        try:
            for stage in stages[: stages.index(self.case.loop_stage)]:
                run.run(stage)
        except BaseException as raised:
            self.raised = raised
        else:
            self.handoff = handed_over(run.payload(stage))
        self.was_shared = lane is not None and lane.shared

    def run(self, lane: Seat | None = None) -> None:
        stage = self.case.loop_stage
        run = StageRun(self.case.whole, self.generation, self.encoded(), source_picture(self.generation))
        if lane is not None:
            run.divert(lane.through)
        try:
            run.run(stage, self.on_boundary, self.checkpoint)
        except BaseException as raised:
            self.raised = raised
        else:
            self.latents = run.payload(stage).values["latents"]
        self.was_shared = lane is not None and lane.shared


def _generations(case: Case) -> list[Generation]:
    """Three jobs of one shape: other prompts, seeds and guidance."""
    return [
        msgspec.structs.replace(case.generation, prompt=prompt, seed=seed, guidance_scale=scale)
        for prompt, seed, scale in (("a cat", 11, 3.5), ("two small dogs", 12, 2.0), ("x", 13, 5.0))
    ]


def _jobs(case: Case) -> list[Job]:
    return [Job(case, generation) for generation in _generations(case)]


def _together(jobs: list[Job], entered_at: tuple[int, ...] = (0, 0, 0)) -> None:
    """Run the jobs as one batch; each enters before the round of that number."""
    running, n_rounds = Batch(CPU), 0
    while n_rounds <= max(entered_at) or not running.is_over:
        for at, job in zip(entered_at, jobs, strict=False):
            if at == n_rounds:
                running.enter(job.run)
        running.round()
        n_rounds += 1


_made_alone: dict[tuple[str, Generation], torch.Tensor] = {}


def _alone(job: Job) -> torch.Tensor:
    key = (job.case.model.source, job.generation)
    if key not in _made_alone:
        alone = Job(job.case, job.generation)
        alone.run()
        if alone.raised is not None:
            raise alone.raised
        _made_alone[key] = alone.latents
    return _made_alone[key]


def _difference(job: Job) -> float:
    """Of the latents in a batch from those alone, relative."""
    expected = _alone(job)
    return float((job.latents - expected).norm() / expected.norm())


def _is_close(job: Job, name: str) -> bool:
    return job.raised is None and _difference(job) <= TOLERANCE.get(name, DEFAULT_TOLERANCE)


@contextmanager
def _calls(case: Case, act: Callable[[int], None] = lambda n: None) -> Iterator[list[int]]:
    """Batch sizes of the calls of the networks, as they are made; `act` may raise in them."""
    sizes: list[int] = []

    def note(network: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        size = NetworkCall.of(network, args, kwargs).batch_size
        sizes.append(size)
        act(size)

    loaded = case.whole.graphs["text"].stage(case.loop_stage).loaded
    hooks = [
        getattr(case.whole.pipe, name).register_forward_pre_hook(note, with_kwargs=True) for name in loaded
    ]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture
def name(case: Case, request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["case"])


def test_lockstep_equals_solo(case: Case, name: str) -> None:
    jobs = _jobs(case)
    with _calls(case) as alone:
        Job(case, jobs[0].generation).run()
    with _calls(case) as shared:
        _together(jobs)
    assert shared == [3 * size for size in alone]
    assert all(job.was_shared for job in jobs)
    assert all(_is_close(job, name) for job in jobs)


def test_encodes_together_equal_those_alone(case: Case) -> None:
    """With other prompts, of which one is twice as long; the last one is unguided where that is known."""
    jobs = _jobs(case)
    jobs[2].generation = msgspec.structs.replace(jobs[2].generation, guidance_scale=1.0)
    alone = [Job(case, job.generation) for job in jobs]
    for job in alone:
        job.encode()
    running = Batch(CPU)
    for job in jobs:
        running.enter(job.encode)
    while not running.is_over:
        running.round()
    for job, expected in zip(jobs, alone, strict=True):
        assert (job.raised, job.was_shared) == (None, True)
        assert job.handoff is not None
        assert expected.handoff is not None
        assert job.handoff.values.keys() == expected.handoff.values.keys()
        for ours, theirs in zip(_tensors(job.handoff), _tensors(expected.handoff), strict=True):
            assert ours.shape == theirs.shape
            # as for latents; measured over all of a job's tensors: at most 3e-8
            assert float((ours.float() - theirs.float()).norm()) <= 2e-6 * float(theirs.float().norm())


def _tensors(payload: Payload) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    left: list[object] = [*payload.values.values()]
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            left += value
    assert found
    return found


def test_encodes_go_before_loops(sd3: Case) -> None:
    """Who enters while others are in their loops: its calls are made before theirs, and with those alone."""
    n_rounds = 0
    jobs = _jobs(sd3)
    running = Batch(CPU)
    running.enter(jobs[0].run)
    running.round()
    with _calls(sd3) as sizes:
        for job in jobs[1:]:
            running.enter(job.encode)
        while any(call.goes_first for call in running._standing.values()):
            running.round()
            n_rounds += 1
        assert sizes == []
        # three encoders, with the prompt and without
        assert n_rounds == 6
        running.round()
    assert sizes == [1]
    assert [job.was_shared for job in jobs[1:]] == [True, True]


def test_joining_in_mid_flight_equals_solo(case: Case, name: str) -> None:
    """Jobs at different steps, and of different numbers of steps."""
    jobs = _jobs(case)
    jobs[2].generation = msgspec.structs.replace(jobs[2].generation, num_inference_steps=3)
    with _calls(case) as sizes:
        _together(jobs, entered_at=(0, 1, 3))
    assert sizes[0] == 1
    assert max(sizes) == 3
    assert all(job.was_shared for job in jobs)
    assert all(_is_close(job, name) for job in jobs)


def test_swapped_outputs_are_noticed(case: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "make_as_one", lambda calls: make_as_one(calls)[::-1])
    jobs = _jobs(case)
    _together(jobs)
    assert _is_close(jobs[1], name)
    assert not _is_close(jobs[0], name)
    assert not _is_close(jobs[2], name)


def test_one_alone_is_bitwise(case: Case) -> None:
    job = _jobs(case)[0]
    _together([job])
    assert not job.was_shared
    assert torch.equal(job.latents, _alone(job))


def test_unguided_beside_guided(case: Case, name: str) -> None:
    """One pass a step beside two: they share what calls they have."""
    jobs = _jobs(case)[:2]
    jobs[1].generation = msgspec.structs.replace(jobs[1].generation, guidance_scale=1.0)
    _together(jobs)
    assert all(job.was_shared for job in jobs)
    assert all(_is_close(job, name) for job in jobs)


def test_paused_in_a_batch_and_resumed_in_another(case: Case, name: str) -> None:
    jobs = _jobs(case)
    kept: list[Checkpoint] = []

    def leave(done: int, steps: int, capture: Capture) -> None:
        if done == 2:
            kept.append(Checkpoint.of(handed_over(capture().payload())))
            raise Left

    jobs[1].on_boundary = leave
    _together(jobs)
    assert isinstance(jobs[1].raised, Left)
    assert all(_is_close(job, name) for job in (jobs[0], jobs[2]))
    resumed = Job(case, jobs[1].generation, checkpoint=kept[0])
    other = Job(case, msgspec.structs.replace(case.generation, seed=14))
    _together([other, resumed], entered_at=(0, 1))
    assert resumed.was_shared
    assert all(_is_close(job, name) for job in (resumed, other))


@pytest.mark.parametrize("case", [*FROM_PICTURE, EMBEDDED], indirect=True)
def test_pictures_beside_text(case: Case, name: str) -> None:
    """The workflow may differ: only the calls have to fit."""
    workflow = case.model.family_table.workflows["image"]
    strength = 0.5 if workflow.takes_strength else None
    jobs = _jobs(case)[:2]
    jobs[1].generation = msgspec.structs.replace(jobs[1].generation, image=SOURCE, strength=strength)
    _together(jobs)
    if workflow.takes_strength:
        assert all(job.was_shared for job in jobs)
    assert all(_is_close(job, name) for job in jobs)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One family for what does not depend on it."""
    return make_case("sd3", tmp_path_factory.mktemp("sd3"))


@pytest.mark.parametrize("error", [StopAtBoundary(1), ValueError("broken")])
def test_one_that_leaves_hurts_no_other(sd3: Case, error: BaseException) -> None:
    jobs = _jobs(sd3)

    def leave(done: int, steps: int, capture: Capture) -> None:
        if done == 1:
            raise error

    jobs[1].on_boundary = leave
    with _calls(sd3) as sizes:
        _together(jobs)
    assert jobs[1].raised is error
    assert (sizes[0], sizes[-1]) == (3, 2)
    assert all(_is_close(job, "sd3") for job in (jobs[0], jobs[2]))


def test_other_shapes_go_on_side_by_side(sd3: Case) -> None:
    """Not shared, and then bit for bit what they are alone."""
    jobs = _jobs(sd3)[:2]
    wider = 2 * sd3.generation.width_px
    jobs[1].generation = msgspec.structs.replace(jobs[1].generation, width_px=wider)
    with _calls(sd3) as sizes:
        _together(jobs)
    assert set(sizes) == {1}
    assert not any(job.was_shared for job in jobs)
    for job in jobs:
        assert torch.equal(job.latents, _alone(job))


def test_out_of_memory_together_is_retried_alone(sd3: Case) -> None:
    def full(size: int) -> None:
        if size > 1:
            raise torch.OutOfMemoryError("too much")

    jobs = _jobs(sd3)
    with _calls(sd3, full) as sizes:
        _together(jobs)
    # tried once; then it is known
    assert [size for size in sizes if size > 1] == [3]
    assert not any(job.was_shared for job in jobs)
    for job in jobs:
        assert torch.equal(job.latents, _alone(job))


def test_out_of_memory_alone_fails_alone(sd3: Case) -> None:
    def full(size: int) -> None:
        if size > 1 or len(sizes) == 2:
            raise torch.OutOfMemoryError("too much")

    jobs = _jobs(sd3)
    with _calls(sd3, full) as sizes:
        _together(jobs)
    assert isinstance(jobs[0].raised, torch.OutOfMemoryError)
    for job in jobs[1:]:
        assert torch.equal(job.latents, _alone(job))


def test_an_error_of_a_shared_call_is_each_jobs_own(sd3: Case) -> None:
    def broken(size: int) -> None:
        raise RuntimeError("broken")

    jobs = _jobs(sd3)
    with _calls(sd3, broken):
        _together(jobs)
    assert [str(job.raised) for job in jobs] == ["broken"] * 3


def test_what_a_job_lets_out_is_raised_where_the_batch_runs() -> None:
    def crash(lane: Seat) -> None:
        raise AssertionError("ours")

    with pytest.raises(LaneCrashed) as crashed:
        Batch(CPU).enter(crash)
    assert str(crashed.value.__cause__) == "ours"


def test_the_first_job_shares_calls_from_the_thread_of_the_device(sd3: Case) -> None:
    """Others enter before its second call; it ends first, and they go on."""
    jobs = _jobs(sd3)
    jobs[0].generation = msgspec.structs.replace(jobs[0].generation, num_inference_steps=3)
    n_rounds = 0

    def admit() -> None:
        nonlocal n_rounds
        n_rounds += 1
        if n_rounds == 2:
            for job in jobs[1:]:
                running.enter(job.run)

    running = Batch(CPU, before_round=admit)
    running.run(jobs[0].run)
    assert running.is_over
    assert all(job.was_shared for job in jobs)
    assert max(_difference(job) for job in jobs) < 2e-6


def test_a_first_job_alone_is_exact(sd3: Case) -> None:
    job = _jobs(sd3)[0]
    Batch(CPU).run(job.run)
    assert not job.was_shared
    assert torch.equal(job.latents, _alone(job))


def test_work_aside_is_done_on_the_thread_of_the_batch() -> None:
    seen: list[object] = []

    def job(lane: Seat) -> None:
        seen.append(threading.current_thread())
        seen.append(lane.aside(threading.current_thread))
        with pytest.raises(KeyError):
            lane.aside(functools.partial(dict[str, int]().__getitem__, "absent"))

    running = Batch(CPU)
    running.enter(job)
    assert running.is_over
    assert seen[0] is not threading.current_thread()
    assert seen[1] is threading.current_thread()
