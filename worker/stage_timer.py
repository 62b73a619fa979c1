"""Runs one stage of a job that nobody waits for, as tasks run it, and says how long it took."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import torch

from wire.generation import Generation
from wire.handoff import HandoffStore
from worker.batch import Batch, Seat
from worker.checkpoint import Checkpoint
from worker.errors import StopAtBoundary
from worker.loop_tap import Capture
from worker.network_tap import can_share
from worker.packing import Payload, pack, unpack
from worker.resident import ResidentModel
from worker.stages import StageRun


@dataclass(frozen=True, slots=True)
class Boundaries:
    """When a loop's stage began, when it stood at each boundary from before its first step on, its end."""

    began_s: float
    at_s: list[float] = field(default_factory=list)

    def step_s(self, ended_s: float, usual_steps: int) -> float:
        """Seconds of one step, with its part of what is done once for `usual_steps` of them.

        The first step is left out of the median: what is made only once is often made there.
        """
        n_steps = len(self.at_s) - 1
        between_s = [later - sooner for sooner, later in itertools.pairwise(self.at_s)]
        step_s = statistics.median(between_s[1:] or between_s)
        return step_s + max(0.0, ended_s - self.began_s - n_steps * step_s) / usual_steps


class StageTimer:
    """For stages that are resident in `resident`. `stopping` is asked at every boundary.

    Everything here raises what the stage raises, and `StopAtBoundary` if it was to stop.
    """

    def __init__(self, resident: ResidentModel, store: HandoffStore, stopping: Callable[[], bool]) -> None:
        self._resident = resident
        self._store = store
        self._stopping = stopping

    def stage(self, stage: str, generation: Generation, handoff: Payload | None) -> tuple[float, StageRun]:
        """Seconds of a stage without a loop."""
        if self._stopping():
            raise StopAtBoundary(0)
        run = StageRun(self._resident, generation, handoff)
        began_s = time.perf_counter()
        run.run(stage)
        return time.perf_counter() - began_s, run

    def loop(
        self, stage: str, generation: Generation, handoff: Payload | None, usual_steps: int
    ) -> tuple[float, StageRun]:
        """Seconds of one step of the loop, which runs all of the generation's."""
        run = StageRun(self._resident, generation, handoff)
        seen = Boundaries(time.perf_counter())
        run.run(stage, lambda done, steps, capture: self._at_boundary(seen, done))
        return seen.step_s(time.perf_counter(), usual_steps), run

    def batch(
        self, stage: str, generation: Generation, handoff: Payload | None, n_jobs: int, usual_steps: int
    ) -> float | None:
        """Seconds of `n_jobs` jobs together, of one step where the stage is a loop.

        None if they share no call of a network.
        """
        if not can_share(self._resident.pipe):
            return None
        jobs = [msgspec.structs.replace(generation, seed=seed) for seed in range(n_jobs)]
        runs = [StageRun(self._resident, job, handoff) for job in jobs]
        errors: list[BaseException] = []
        seats: list[Seat] = []
        seen = Boundaries(time.perf_counter())

        def job(run: StageRun, boundaries: Boundaries, seat: Seat) -> None:
            seats.append(seat)
            run.divert(seat.through)
            try:
                run.run(stage, lambda done, steps, capture: self._at_boundary(boundaries, done))
            except BaseException as error:  # raised again below: a job in a batch must not
                errors.append(error)

        def admit() -> None:
            while len(seats) < n_jobs and not errors:
                others = Boundaries(time.perf_counter())
                batch.enter(functools.partial(job, runs[len(seats)], others))

        batch = Batch(self._resident.device, before_round=admit)
        batch.run(functools.partial(job, runs[0], seen))
        if errors:
            raise errors[0]
        if not all(seat.shared for seat in seats):
            return None
        ended_s = time.perf_counter()
        return seen.step_s(ended_s, usual_steps) if seen.at_s else ended_s - seen.began_s

    def resume(self, stage: str, generation: Generation, handoff: Payload | None, step_s: float) -> float:
        """Seconds that a pause half way and going on from it cost, over a loop that goes on at once."""
        half = max(1, generation.num_inference_steps // 2)
        data, saved_s = self._paused(stage, generation, handoff, half)
        began_s = time.perf_counter()
        checkpoint = Checkpoint.of(unpack(data).to(self._resident.device))
        run = StageRun(self._resident, generation, handoff)

        def until_next(done: int, steps: int, capture: Capture) -> None:
            if done > half:
                raise StopAtBoundary(done)

        try:
            run.run(stage, until_next, checkpoint)
        except StopAtBoundary:
            self._synchronize()
        return saved_s + max(0.0, time.perf_counter() - began_s - step_s)

    def _paused(
        self, stage: str, generation: Generation, handoff: Payload | None, at_step: int
    ) -> tuple[bytes, float]:
        """The packed checkpoint of that step, and the seconds that it took to write and read it."""
        kept: list[tuple[bytes, float]] = []

        def leave(done: int, steps: int, capture: Capture) -> None:
            if done < at_step:
                return
            began_s = time.perf_counter()
            data, tensors = pack(capture().payload())
            handle = self._store.put(data, tensors=tensors)
            try:
                kept.append((self._store.get(handle), time.perf_counter() - began_s))
            finally:
                self._store.free(handle)
            raise StopAtBoundary(done)

        try:
            StageRun(self._resident, generation, handoff).run(stage, leave)
        except StopAtBoundary:
            self._synchronize()
        return kept[0]

    def _at_boundary(self, seen: Boundaries, done: int) -> None:
        seen.at_s.append(time.perf_counter())
        if self._stopping():
            raise StopAtBoundary(done)

    def _synchronize(self) -> None:
        if self._resident.device.type == "cuda":
            torch.cuda.synchronize(self._resident.device)
