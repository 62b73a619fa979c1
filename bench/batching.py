"""Do batches make more pictures a second, and the same ones?

The same pictures are made by a worker's device loop, whole (encode, denoise, decode), in batches of different
sizes: in lockstep, and with each task joining the batch in mid-flight as another leaves it. All ways are run
in turns within the same minutes, so that a neighbour on the host slows all of them. What is compared with is
the same device loop making one picture after the other.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from bench.device_driver import DeviceDriver
from bench.mix import prompts
from bench.stats import percentiles
from pipelines.catalogue import Model
from wire.generation import Exactness, Generation
from wire.to_gateway import StageDone, StepDone, TaskDone
from wire.to_worker import RunTask

MAX_LEVELS = 2
"""How far a pixel of 0..255 may be from that of the picture made alone: rounding may turn one, not more."""


class Refused(Exception):
    """There is no result to report; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How pictures are batched. `size`: how many are in the batch at most; `joins`: one by one."""

    size: int
    joins: bool = False

    @property
    def name(self) -> str:
        if self.size == 1:
            return "one by one"
        return f"{self.size} joining" if self.joins else f"{self.size} in lockstep"


ALONE = Way(size=1)
WAYS = (ALONE, *(Way(size=n) for n in (2, 4, 8)), *(Way(size=n, joins=True) for n in (2, 4, 8)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. `n_pictures` in each turn of each way."""

    name: str
    model: Model
    stages: tuple[str, ...]
    n_pictures: int
    n_repeats: int
    steps: int
    seed: int

    def tasks(self) -> list[RunTask]:
        """One per picture, the same in every turn, none joining another."""
        names = prompts(self.model)
        width_px, height_px = self.model.default_size_px
        return [
            RunTask(
                task_id=str(index),
                job_id=str(index),
                model=self.name,
                stages=self.stages,
                generation=Generation(
                    prompt=names[index % len(names)],
                    width_px=width_px,
                    height_px=height_px,
                    num_inference_steps=self.steps,
                    guidance_scale=self.model.default_guidance,
                    seed=self.seed + index,
                    num_frames=self.model.default_frames,
                ),
            )
            for index in range(self.n_pictures)
        ]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One way, run once. `pictures` are files by number; `n_shared`: how many shared a call.

    `cpu_s`: processor time of this process, which neighbours on the host change less than what passed.
    """

    seconds: float
    cpu_s: float
    pictures: list[bytes]
    n_shared: int

    @property
    def pictures_per_s(self) -> float:
        return len(self.pictures) / self.seconds


def measure(plan: Plan, driver: DeviceDriver, say: Callable[[str], None]) -> list[dict[Way, Turn]]:
    """All repeats, the order of the ways turned round in every second one. Raises `Refused`."""
    compare({way: run(plan, driver, way) for way in (ALONE, WAYS[-1])})
    repeats = []
    for index in range(plan.n_repeats):
        ways = WAYS if index % 2 == 0 else WAYS[::-1]
        turns = {way: run(plan, driver, way) for way in ways}
        compare(turns)
        repeats.append(turns)
        rates = ", ".join(f"{way.name} {turns[way].pictures_per_s:.2f}" for way in WAYS)
        say(f"repeat {index + 1}/{plan.n_repeats}, pictures/s: {rates}")
    return repeats


def run(plan: Plan, driver: DeviceDriver, way: Way) -> Turn:
    """All pictures in one way. Raises `DeviceFailed`."""
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    done = _join_one_by_one(plan, driver, way.size) if way.joins else _in_groups(plan, driver, way.size)
    seconds, cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
    pictures = []
    for task in plan.tasks():
        output = done[task.task_id].output
        pictures.append(driver.store.get(output))
        driver.store.free(output)
    n_shared = sum(message.exactness is Exactness.NUMERIC for message in done.values())
    return Turn(seconds=seconds, cpu_s=cpu_s, pictures=pictures, n_shared=n_shared)


def _in_groups(plan: Plan, driver: DeviceDriver, size: int) -> dict[str, TaskDone]:
    """Every `size` tasks begin together; the next ones are in line behind them."""
    tasks = plan.tasks()
    leaders = [tasks[index - index % size].task_id for index in range(len(tasks))]
    driver.submit_together(
        plan.name,
        plan.model,
        [
            _joining(task, leader if leader != task.task_id else None)
            for task, leader in zip(tasks, leaders, strict=True)
        ],
    )
    return {message.task_id: message for message in (driver.until(TaskDone) for _ in tasks)}


def _join_one_by_one(plan: Plan, driver: DeviceDriver, size: int) -> dict[str, TaskDone]:
    """The first `size` tasks join at equal distances of steps, each further one when one leaves its loop."""
    waiting, newest = plan.tasks(), None
    done: dict[str, TaskDone] = {}
    distance_steps = max(1, plan.steps // size)
    loop_stage = plan.stages[-2]
    n_begun = 0

    def begin() -> None:
        nonlocal newest, n_begun
        if waiting:
            task = waiting.pop(0)
            driver.loop.submit(_joining(task, newest))
            newest, n_begun = task.task_id, n_begun + 1

    begin()
    while len(done) < plan.n_pictures:
        match message := driver.hear():
            case StepDone(task_id=task_id, step=step):
                if n_begun < size and task_id == newest and step == distance_steps:
                    begin()
            case StageDone(stage=stage):
                if stage == loop_stage:
                    begin()
            case TaskDone():
                done[message.task_id] = message
    return done


def _joining(task: RunTask, other: str | None) -> RunTask:
    return msgspec.structs.replace(task, joins=other)


def compare(turns: dict[Way, Turn]) -> None:
    """Raises `Refused` for calls that were not shared, or pictures that are not those made alone."""
    expected = [_levels(picture) for picture in turns[ALONE].pictures]
    for way, turn in turns.items():
        # one that joins may come too late, when the other has left; how many did not is reported
        if not way.joins and turn.n_shared != (0 if way is ALONE else len(turn.pictures)):
            raise Refused(f"{way.name}: {turn.n_shared} of {len(turn.pictures)} pictures shared a call")
        for number, picture in enumerate(turn.pictures):
            away = int(np.abs(_levels(picture) - expected[number]).max())
            if away > MAX_LEVELS:
                raise Refused(f"{way.name}: picture {number} is {away} levels from the one made alone")


def _levels(picture: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    with Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened, dtype=np.int16)


def report(plan: Plan, repeats: Sequence[dict[Way, Turn]]) -> dict[str, Any]:
    """The numbers, raw and summed up."""
    rates = {way: [turns[way].pictures_per_s for turns in repeats] for way in WAYS}
    ratios = {
        way: [turns[way].pictures_per_s / turns[ALONE].pictures_per_s for turns in repeats] for way in WAYS
    }
    n_equal = {
        way: sum(
            ours == alone
            for turns in repeats
            for ours, alone in zip(turns[way].pictures, turns[ALONE].pictures, strict=True)
        )
        for way in WAYS
    }
    return {
        "benchmark": "batching",
        "question": "Do batches make more pictures a second, and the same ones?",
        "model": plan.name,
        "n": plan.n_pictures,
        "repeats": plan.n_repeats,
        "steps": plan.steps,
        "seed": plan.seed,
        "size_px": list(plan.model.default_size_px),
        "max_levels": MAX_LEVELS,
        "throughput_unit": "pictures per second",
        "ways": [
            {
                "name": way.name,
                "size": way.size,
                "joins": way.joins,
                "throughput": percentiles(rates[way], 20, 50, 80),
                "ratio": percentiles(ratios[way], 20, 50, 80),
                "cpu_s": percentiles([turns[way].cpu_s / plan.n_pictures for turns in repeats], 20, 50, 80),
                "same_bytes": n_equal[way],
                "shared": sum(turns[way].n_shared for turns in repeats),
                "raw": {"pictures_per_s": rates[way], "ratio": ratios[way]},
            }
            for way in WAYS
        ],
    }
