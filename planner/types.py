"""What the planner sees and what it says: frozen values only.

Times are seconds on one monotonic clock that the caller owns. Worker ids, model names and stage names are
opaque strings; the order of a model's stages comes from its graph.

An observation already shows what earlier effects asked for, whether or not the worker has confirmed it: a
started job is `running` and its worker has a `task`, asked loads are `loading`, evicted stages are gone from
`resident`. The planner remembers no effect it has said: what an observation does not show is asked for again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StageKey = tuple[str, str]
"""A stage of a model: (model, stage)."""

Priority = Literal["interactive", "standard", "batch"]
"""How urgent a request says that it is. It decides the deadline of a request that names none, and which of
two jobs with one deadline goes first."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What decides a stage's cost besides the model. `guided`: two denoiser passes a step."""

    width_px: int
    height_px: int
    frames: int = 1
    guided: bool = True


@dataclass(frozen=True, slots=True)
class JobView:
    """One unfinished picture. `pending`: its stages still to run, in order; `running`: a task has it.

    `steps_done` of its loop need not be run again, on whichever worker it goes on.
    """

    job_id: str
    model: str
    shape: Shape
    steps: int
    pending: tuple[str, ...]
    arrived_s: float
    deadline_s: float
    running: bool = False
    steps_done: int = 0
    priority: Priority = "standard"


@dataclass(frozen=True, slots=True)
class RunningTask:
    """What a worker is busy with. `pending` are its stages not yet ended, `steps_done` of the loop.

    `can_pause`: it may be told to leave its loop, now or once it is there; `pausing`: it was told so.
    """

    task_id: str
    job_ids: tuple[str, ...]
    model: str
    pending: tuple[str, ...]
    shape: Shape
    steps: int
    steps_done: int
    started_s: float
    can_pause: bool = False
    pausing: bool = False


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One live worker. `resident` can run now; `loading` was asked for and is not there yet.

    `failed` could not be made resident there, and is not to be asked for again. `occupied`: it was told
    something else that comes before a run, like to describe a model or to forget one.
    """

    worker_id: str
    node: str
    resident: frozenset[StageKey]
    loading: frozenset[StageKey] = frozenset()
    task: RunningTask | None = None
    failed: frozenset[StageKey] = frozenset()
    occupied: bool = False

    @property
    def is_held_up(self) -> bool:
        """Whether a run sent now would wait behind something that is no run."""
        return self.occupied or bool(self.loading)


@dataclass(frozen=True, slots=True)
class StageSample:
    """A stage that ended: `seconds` of one worker for `steps` steps (1 for a stage without a loop)."""

    model: str
    stage: str
    shape: Shape
    steps: int
    seconds: float
    ended_s: float
    warm_up: bool = False


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that is to be served. `stages` in order; the cost of `loop_stage` grows with steps."""

    model: str
    stages: tuple[str, ...]
    loop_stage: str


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything `decide` may look at. `finished` are the samples since the last call."""

    now_s: float
    jobs: tuple[JobView, ...]
    workers: tuple[WorkerView, ...]
    models: Mapping[str, ModelView]
    finished: tuple[StageSample, ...] = ()


class Reason(enum.StrEnum):
    """Why an effect was decided."""

    EARLIEST_DEADLINE = "earliest_deadline"
    INITIAL_PLACEMENT = "initial_placement"
    PINNED_PLACEMENT = "pinned_placement"
    WORKER_REPLACED = "worker_replaced"
    MODELS_CHANGED = "models_changed"
    MIX_SHIFTED = "mix_shifted"
    PLACEMENT_REVIEW = "placement_review"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run consecutive `stages` of `jobs` as one task on `workers` (`degree` of them)."""

    stages: tuple[str, ...]
    jobs: tuple[str, ...]
    workers: tuple[str, ...]
    degree: int = 1
    reason: Reason = Reason.EARLIEST_DEADLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Make `stages` of `model` resident on `worker`. `detail` is one line for the log."""

    worker: str
    model: str
    stages: tuple[str, ...]
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Drop `stages` of `model` from `worker`; only said once others can run them."""

    worker: str
    model: str
    stages: tuple[str, ...]
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Let `job` leave its loop on `worker` at the next step boundary; its next run goes on from there.

    That may be on any worker. Only for a task that `can_pause` and is not `pausing`.
    """

    worker: str
    job: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAt:
    """Call `decide` again at `at_s` even if nothing happens."""

    at_s: float
    reason: Reason = Reason.PLACEMENT_REVIEW


Effect = Run | Load | Evict | Pause | WakeAt


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """`pinned`: worker id -> stages it holds (of every model), or empty for placement by the rule.

    `mix_window_s`: how far back the observed mix reaches, and further where it would hold fewer than
    `min_samples`. `min_dwell_s`: a placement lives at least this long. `min_samples`: the rule waits for this
    many finished stages since the last change. `share_margin`: how far past the rounding boundary the loop's
    share of GPU-seconds must be before the rule changes anything.
    """

    pinned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mix_window_s: float = 30.0
    min_dwell_s: float = 10.0
    min_samples: int = 12
    share_margin: float = 0.05
