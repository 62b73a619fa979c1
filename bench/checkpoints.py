"""What do a checkpoint, a pause and a resume cost, and how soon is a pause obeyed?

A task of a worker's device loop is asked to pause at a random moment of its loop and is then continued from
the checkpoint, which comes from the store. Times of tiny models say what the mechanism costs beside any
weights; their bytes are those of tiny latents.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.batching import Refused
from bench.device_driver import DeviceDriver
from bench.stats import percentiles
from pipelines.catalogue import Model, to_entry
from pipelines.graph import StageGraph
from wire.generation import Generation
from wire.handle import Handle
from wire.to_gateway import Described, StepDone, TaskDone, TaskPaused
from wire.to_worker import Describe, RunTask


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One model. `n_pauses` tasks of `steps` steps are paused once each."""

    name: str
    model: Model
    steps: int
    n_pauses: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Pause:
    """One pause. `late_steps`: boundaries reached after it was asked for, the one at which it left included.

    `asked_ms`: from asking to the message that it left; `save_ms`: from the boundary to that message;
    `resume_ms`: from the continuing task's submission to its first boundary, one step (`step_ms`) included.
    """

    late_steps: int
    asked_ms: float
    save_ms: float
    resume_ms: float
    step_ms: float
    n_bytes: int
    same: bool


def measure(plan: Plan, driver: DeviceDriver) -> dict[str, Any]:
    """One row. Raises `Refused` if a continued task made another picture than one that never paused."""
    stages = _stages(plan, driver)
    driver.load(plan.name, plan.model, stages.names)
    generation = _generation(plan)
    encoded = _output(driver, _task("encode", plan, generation, _before(stages)))
    loop = _task("whole", plan, generation, (stages.loop_stage,), handoff=encoded)
    _output(driver, loop)  # a warm-up
    whole = driver.store.get(_output(driver, loop))
    draw = random.Random(plan.seed)
    pauses = [_pause(driver, loop, draw, whole) for _ in range(plan.n_pauses)]
    if not all(pause.same for pause in pauses):
        raise Refused(f"{plan.name}: paused and resumed, the latents are not those of a job that never was")
    return {
        "family": plan.name,
        "steps": plan.steps,
        "n": plan.n_pauses,
        "bytes": max(pause.n_bytes for pause in pauses),
        "handoff_bytes": encoded.n_bytes,
        **{
            field: percentiles([getattr(pause, field) for pause in pauses], 50, 95)
            for field in ("step_ms", "save_ms", "resume_ms", "asked_ms")
        },
        "late_steps": [pause.late_steps for pause in pauses],
    }


def _pause(driver: DeviceDriver, loop: RunTask, draw: random.Random, whole: bytes) -> Pause:
    loop = msgspec.structs.replace(loop, task_id=f"{loop.task_id}-{draw.getrandbits(32)}")
    driver.loop.submit(loop)
    steps = loop.generation.num_inference_steps
    before, last = driver.until(StepDone), driver.until(StepDone)
    moment = draw.randint(2, steps // 2)
    while last.step < moment:
        before, last = last, driver.until(StepDone)
    step_s = last.done_at_s - before.done_at_s
    time.sleep(draw.random() * step_s)
    driver.loop.pause(loop.task_id)
    # asked for once the call has returned: this thread may have to wait for its turn inside
    asked_s = time.monotonic()
    boundaries = [last]
    while isinstance(message := driver.until(StepDone, TaskPaused, TaskDone), StepDone):
        boundaries.append(message)
    left_s = time.monotonic()
    if not isinstance(message, TaskPaused):
        raise Refused(f"{loop.model}: a task ended before it was paused")
    passed = sum(boundary.done_at_s > asked_s for boundary in boundaries)
    resumed_s = time.monotonic()
    goes_on = msgspec.structs.replace(loop, task_id=f"{loop.task_id}-on", checkpoint=message.checkpoint)
    driver.loop.submit(goes_on)
    first = driver.until(StepDone)
    output = driver.until(TaskDone).output
    same = driver.store.get(output) == whole
    n_bytes = message.checkpoint.n_bytes
    for handle in (output, message.checkpoint):
        driver.store.free(handle)
    return Pause(
        late_steps=passed,
        asked_ms=1000 * (left_s - asked_s),
        save_ms=1000 * (left_s - boundaries[-1].done_at_s),
        resume_ms=1000 * (first.done_at_s - resumed_s),
        step_ms=1000 * step_s,
        n_bytes=n_bytes,
        same=same,
    )


def _stages(plan: Plan, driver: DeviceDriver) -> StageGraph:
    driver.loop.submit(Describe(model=plan.name, entry=to_entry(plan.model)))
    return msgspec.convert(driver.until(Described).graphs["text"], StageGraph)


def _before(graph: StageGraph) -> tuple[str, ...]:
    return graph.names[: graph.names.index(graph.loop_stage)]


def _generation(plan: Plan) -> Generation:
    width_px, height_px = plan.model.default_size_px
    return Generation(
        prompt="a cat",
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=plan.steps,
        guidance_scale=3.5,
        seed=plan.seed,
        num_frames=plan.model.default_frames,
    )


def _task(
    task_id: str, plan: Plan, generation: Generation, stages: tuple[str, ...], handoff: Handle | None = None
) -> RunTask:
    return RunTask(
        task_id=task_id,
        job_id=task_id,
        model=plan.name,
        stages=stages,
        generation=generation,
        handoff=handoff,
    )


def _output(driver: DeviceDriver, task: RunTask) -> Handle:
    driver.loop.submit(task)
    return driver.until(TaskDone).output
