"""Measures what a model's stages cost on this worker's device, by running them as tasks run them.

One stage after the other, each alone on the device, so that a worker that cannot hold the whole model can
measure it too, and what a stage's weights take and how long they load is seen by itself. Outputs go to the
next stage through their packing. A loop runs a few steps: what one costs is the time between two boundaries,
and what comes before the first and behind the last is shared among as many steps as a request usually asks
for. The first run of each shape is not timed: it finds the peak of memory, and whatever is made only once.

The time is bounded. Shapes go from small to large, and one that would take longer than what is left for its
stage is left out, for the planner's fit. Nothing here touches what is resident for tasks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import torch

from kernels.switch import Choice
from kernels.tuning import tune
from pipelines.catalogue import Model
from pipelines.families import is_guided
from planner.measurements import Measurement, Measurements
from planner.types import Shape
from wire.generation import Generation
from wire.handoff import HandoffStore
from worker.components import Components
from worker.errors import ProfileRefused
from worker.memory import give_back, out_of_memory, told
from worker.packing import Payload, pack, unpack
from worker.peak import with_peak
from worker.resident import ResidentModel
from worker.stage_timer import StageTimer
from worker.stages import StageRun

LOOP_STEPS = 4
"""Steps of a timed loop: three times between boundaries have a median."""

PEAK_STEPS = 2
"""Steps of the loop's untimed run: from the second on, memory is as it stays."""

REPEATS = 3
"""Timed runs of each shape, where the time allows."""

MORE_ENCODES = 2
"""Encodes are also measured in batches so many times the largest that was asked for: they hold little, and a
text is a small part of what fills a device."""

LOOP_SHARE = 0.6
"""The loop's part of the time; the other stages share the rest."""


@dataclass(slots=True, eq=False)
class _Case:
    """One generation at one stage. `handoff` is its input, `output` what the next stage gets.

    `run_s` of one timed run altogether, `seconds` as they are told: of a loop's step.
    """

    generation: Generation
    shape: Shape
    handoff: Payload | None = None
    output: Payload | None = None
    peak_bytes: int = 0
    run_s: float = 0.0
    seconds: list[float] = field(default_factory=list)


class Profiler:
    """For one measurement of one model. `say` gets lines for the log; `stopping` is asked at boundaries."""

    def __init__(
        self,
        name: str,
        model: Model,
        device: torch.device,
        components: Components,
        store: HandoffStore,
        *,
        say: Callable[[str], None] = lambda line: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raises `GraphRefused` or `LoadRefused`."""
        self._resident = ResidentModel(name, model, device, components)
        self._timer = StageTimer(self._resident, store, stopping)
        self._device = device
        self._say = say
        self._usual_steps = model.default_steps
        self._until_s = 0.0
        self._last_refusal = ""
        self._switch = components.switch
        self._kernels: dict[str, Choice] = {}

    def measure(
        self, generations: Sequence[Generation], batches: Sequence[int], bound_s: float
    ) -> Measurements:
        """Everything. The first of `generations` is the usual one.

        Raises `LoadRefused`, `ProfileRefused` if a stage runs at no shape, and `StopAtBoundary`.
        """
        resident, usual = self._resident, generations[0]
        graph = resident.graphs[usual.workflow]
        cases = sorted(map(self._case, generations), key=lambda case: case.shape.tokens)
        weight_bytes: dict[str, int] = {}
        load_s: dict[str, float] = {}
        measured: list[Measurement] = []
        resume_s = None
        for stage in graph.names:
            load_s[stage] = self._loaded(stage)
            weight_bytes[stage] = resident.resident_bytes
            is_loop = stage == graph.loop_stage
            share = LOOP_SHARE if is_loop else (1 - LOOP_SHARE) / max(1, len(graph.names) - 1)
            self._tune(stage, cases, share * bound_s, is_loop=is_loop)
            self._until_s = time.perf_counter() + share * bound_s
            cases = self._ran(stage, cases, is_loop=is_loop)
            if is_loop:
                middle = next((case for case in cases if case.generation is usual), cases[0])
                resume_s = self._resume_s(stage, middle)
                chosen = {id(case): case for case in (middle, cases[0], cases[-1])}.values()
                measured += self._batches(stage, list(chosen), batches, is_loop=True)
            elif graph.stage(stage).kind == "encode":
                middle = next((case for case in cases if case.generation is usual), cases[0])
                more = (*batches, MORE_ENCODES * max(batches, default=1))
                measured += self._batches(stage, [middle], more, is_loop=False)
            self._repeat(stage, cases, is_loop=is_loop)
            measured += [self._measurement(stage, case) for case in cases]
            cases = [_Case(case.generation, case.shape, handoff=case.output) for case in cases]
            resident.evict((stage,))
            give_back(self._device)
        return Measurements(
            device="",
            model=resident.name,
            measured=tuple(measured),
            weight_bytes=weight_bytes,
            load_s=load_s,
            resume_s=resume_s,
            kernels={key: (each.path, each.settings) for key, each in self._kernels.items()},
        )

    def _case(self, generation: Generation) -> _Case:
        guided = is_guided(self._resident.model.family_table, generation.guidance_scale)
        size = (generation.width_px, generation.height_px, generation.num_frames)
        return _Case(generation, Shape(*size, guided=guided))

    def _loaded(self, stage: str) -> float:
        began_s = time.perf_counter()
        self._resident.load((stage,))
        took_s = time.perf_counter() - began_s
        self._say(f"{stage}: {self._resident.resident_bytes / 2**20:.0f} MiB, loaded in {took_s:.2f} s")
        return took_s

    def _tune(self, stage: str, cases: list[_Case], bound_s: float, *, is_loop: bool) -> None:
        """Find the fastest way of the calls that these make. They are run once, to see which there are."""
        if not self._switch.is_on:
            return
        with self._switch.recording() as asked:
            for case in cases:
                try:
                    self._run(stage, case, is_loop, PEAK_STEPS)
                except Exception as error:  # as in `_ran`, which will say it
                    give_back(self._device, error)
        tune(self._switch, bound_s, self._say)
        # with what was known before, so that a later start has the same choices from this profile alone
        self._kernels |= {key: each for key, each in self._switch.chosen.items() if key in asked}
        give_back(self._device)

    def _ran(self, stage: str, cases: list[_Case], *, is_loop: bool) -> list[_Case]:
        """Those of `cases` that went well and in time, each with a peak and one timed run."""
        ran: list[_Case] = []
        for case in cases:
            if ran and self._too_long(case.shape.tokens / ran[-1].shape.tokens * 2 * ran[-1].run_s):
                self._say(f"{stage} {_shown(case.shape)}: left out, there is no time for it")
                continue
            try:
                _, case.peak_bytes = with_peak(
                    self._device,
                    lambda: self._run(stage, case, is_loop, PEAK_STEPS),  # noqa: B023
                )
                run = self._timed(stage, case, is_loop=is_loop)
                if not self._resident.graphs[case.generation.workflow].is_last(stage):
                    case.output = unpack(pack(run.payload(stage))[0])
            except Exception as error:  # a family's own code may raise anything; a request would fail alike
                self._refused(stage, case, error)
                continue
            ran.append(case)
        if not ran:
            raise ProfileRefused(f"{stage} of {self._resident.name} cannot be measured: {self._last_refusal}")
        return ran

    def _timed(self, stage: str, case: _Case, *, is_loop: bool) -> StageRun:
        began_s = time.perf_counter()
        seconds, run = self._run(stage, case, is_loop, LOOP_STEPS)
        case.run_s = time.perf_counter() - began_s
        case.seconds.append(seconds)
        return run

    def _run(self, stage: str, case: _Case, is_loop: bool, steps: int) -> tuple[float, StageRun]:
        if not is_loop:
            return self._timer.stage(stage, case.generation, case.handoff)
        return self._timer.loop(stage, self._short(case, steps), case.handoff, self._usual_steps)

    def _resume_s(self, stage: str, case: _Case) -> float:
        generation = self._short(case, LOOP_STEPS)
        tries: list[float] = []
        while not tries or (len(tries) < REPEATS and not self._too_long(2 * case.run_s)):
            tries.append(self._timer.resume(stage, generation, case.handoff, case.seconds[0]))
        seconds = statistics.median(tries)
        self._say(f"{stage} {_shown(case.shape)}: {1000 * seconds:.1f} ms to pause and go on")
        return seconds

    def _batches(
        self, stage: str, cases: list[_Case], batches: Sequence[int], *, is_loop: bool
    ) -> list[Measurement]:
        """Several jobs together, at each of `cases`; nothing if they share no call."""
        measured: list[Measurement] = []
        for case in cases:
            for n_jobs in sorted(n for n in batches if n > 1):
                n_runs = (PEAK_STEPS + LOOP_STEPS) / LOOP_STEPS if is_loop else 1 + REPEATS
                if self._too_long(n_jobs * n_runs * case.run_s):
                    break
                try:
                    _, peak_bytes = with_peak(
                        self._device,
                        lambda: self._batch(stage, case, n_jobs, PEAK_STEPS),  # noqa: B023
                    )
                    seconds = self._together(stage, case, n_jobs, 1 if is_loop else REPEATS)
                except Exception as error:  # as above
                    self._refused(stage, case, error)
                    break
                if seconds is None:
                    self._say(f"{stage}: jobs of this model share no call of the network")
                    return measured
                what = f"a step of {n_jobs} jobs" if is_loop else f"for {n_jobs} jobs"
                self._say(f"{stage} {_shown(case.shape)}: {1000 * seconds:.1f} ms {what}")
                measured.append(
                    Measurement(
                        stage=stage, shape=case.shape, seconds=seconds, peak_bytes=peak_bytes, batch=n_jobs
                    )
                )
        return measured

    def _together(self, stage: str, case: _Case, n_jobs: int, n_runs: int) -> float | None:
        tries = [self._batch(stage, case, n_jobs, LOOP_STEPS) for _ in range(n_runs)]
        seconds = [each for each in tries if each is not None]
        return statistics.median(seconds) if seconds else None

    def _batch(self, stage: str, case: _Case, n_jobs: int, steps: int) -> float | None:
        return self._timer.batch(stage, self._short(case, steps), case.handoff, n_jobs, self._usual_steps)

    def _repeat(self, stage: str, cases: list[_Case], *, is_loop: bool) -> None:
        """More timed runs of every shape, as long as there is time."""
        for _ in range(REPEATS - 1):
            for case in cases:
                if not self._too_long(case.run_s):
                    self._timed(stage, case, is_loop=is_loop)

    def _measurement(self, stage: str, case: _Case) -> Measurement:
        seconds = statistics.median(case.seconds)
        told_ = f"{1000 * seconds:.1f} ms (median of {len(case.seconds)}), {case.peak_bytes / 2**20:.1f} MiB"
        self._say(f"{stage} {_shown(case.shape)}: {told_}")
        return Measurement(stage=stage, shape=case.shape, seconds=seconds, peak_bytes=case.peak_bytes)

    def _too_long(self, seconds: float) -> bool:
        return time.perf_counter() + seconds > self._until_s

    def _short(self, case: _Case, steps: int) -> Generation:
        fewer = min(steps, case.generation.num_inference_steps)
        return msgspec.structs.replace(case.generation, num_inference_steps=fewer)

    def _refused(self, stage: str, case: _Case, error: Exception) -> None:
        self._last_refusal = (
            f"{type(error).__name__}: {error}"
            if out_of_memory(error) is None
            else f"out of memory: {told(error, self._device)}"
        )
        self._say(f"{stage} {_shown(case.shape)}: left out, {self._last_refusal}")
        give_back(self._device, error)


def _shown(shape: Shape) -> str:
    frames = f", {shape.frames} frames" if shape.frames > 1 else ""
    return f"{shape.width_px}x{shape.height_px}{frames}{'' if shape.guided else ' unguided'}"
