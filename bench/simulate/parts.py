"""What a simulated fleet is made of: jobs, tasks and workers. Plain records, which others move."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.arrivals import Arrival
from bench.costs import ModelCosts
from planner.types import JobView, RunningTask, StageKey, WorkerView

ON_TIME_S = 1e-6
"""How late still counts as on time: sums of floating point seconds differ by their order."""


class Outcome(enum.StrEnum):
    """How a job ended. `DROPPED`: it was not to be finished late; `UNFINISHED`: not before the end."""

    DONE = "done"
    REJECTED = "rejected"
    DROPPED = "dropped"
    OUT_OF_MEMORY = "out_of_memory"
    UNFINISHED = "unfinished"


class Usage(enum.StrEnum):
    """What GPU-seconds go to besides the stages: taking over from a checkpoint or another worker, members of
    a gang while its first runs what is not the loop, work that died with a worker, and loads."""

    TAKEOVER = "takeover"
    GANG_WAIT = "gang wait"
    LOST = "lost"
    LOAD = "load"


@dataclass(slots=True, eq=False)
class Job:
    """One picture from its arrival to its end. `view` is what the planner is shown of it.

    `last_worker` has the output of the last stage that ended in its memory.
    """

    arrival: Arrival
    view: JobView
    outcome: Outcome = Outcome.UNFINISHED
    ended_s: float | None = None
    n_pauses: int = 0
    last_worker: str = ""

    @property
    def is_on_time(self) -> bool:
        return self.ended_s is not None and self.ended_s <= self.view.deadline_s + ON_TIME_S

    @property
    def latency_s(self) -> float | None:
        """From arrival to the end; None for one that was not served."""
        return None if self.ended_s is None else self.ended_s - self.view.arrived_s


@dataclass(slots=True, eq=False)
class Task:
    """Consecutive `stages` of `jobs` in lockstep on `devices`, the first of which runs what is not the loop.

    `place` of the stage that runs, which began at `stage_began_s` and takes `stage_s`; None before the task
    could begin behind loads. `step_s` of its loop, which has done `steps_before` already. An event of another
    `version` is not for it any more. `drops`: its job is late, and dropped at the next boundary.
    """

    task_id: str
    jobs: tuple[Job, ...]
    costs: ModelCosts
    stages: tuple[str, ...]
    devices: list[Device]
    asked_s: float
    steps: int
    steps_before: int
    place: int | None = None
    began_s: float = 0.0
    stage_began_s: float = 0.0
    stage_s: float = 0.0
    step_s: float = 0.0
    pausing: bool = False
    drops: bool = False
    version: int = 0
    told_steps: int = 0
    told_s: float = 0.0

    @property
    def model(self) -> str:
        return self.costs.view.model

    @property
    def stage(self) -> str:
        """The one that runs, or is to be the first."""
        return self.stages[self.place or 0]

    @property
    def in_loop(self) -> bool:
        return self.place is not None and self.stage == self.costs.view.loop_stage

    @property
    def is_loop_ahead(self) -> bool:
        """Whether its loop is still to end."""
        return self.costs.view.loop_stage in self.stages[self.place or 0 :]

    def view(self) -> RunningTask:
        """As the planner sees it, with the steps that it was told last."""
        return RunningTask(
            self.task_id,
            tuple(job.view.job_id for job in self.jobs),
            self.model,
            self.stages[self.place or 0 :],
            self.jobs[0].view.shape,
            self.steps,
            self.told_steps,
            self.asked_s,
            self.is_loop_ahead,
            self.pausing,
            tuple(device.worker_id for device in self.devices),
            self.told_s,
            self.steps_before,
        )


class Loading(NamedTuple):
    """Stages of one model that a worker was told to load."""

    keys: frozenset[StageKey]
    seconds: float


@dataclass(slots=True, eq=False)
class Device:
    """One live worker. `queue`: loads and at most one task in the order asked, the first being done.

    `busy_s` is its own sum of seconds in tasks and loads; `life` counts its restarts.
    """

    worker_id: str
    node: str
    view: WorkerView
    queue: deque[Loading | Task] = field(default_factory=deque)
    load_began_s: float = 0.0
    life: int = 0
    busy_s: float = 0.0

    @property
    def task(self) -> Task | None:
        return next((entry for entry in self.queue if isinstance(entry, Task)), None)


class Span(NamedTuple):
    """One stage that ended on one member of a gang, the first of which is `is_first`."""

    worker: str
    job: str
    model: str
    stage: str
    began_s: float
    ended_s: float
    steps: int
    from_step: int
    is_first: bool
