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

    @property
    def tokens(self) -> int:
        """What costs are fitted over: pixels times frames, which every family's tokens are a part of."""
        return max(1, self.width_px * self.height_px * self.frames)


@dataclass(frozen=True, slots=True)
class JobView:
    """One unfinished picture. `pending`: its stages still to run, in order; `running`: a task has it.

    `steps_done` of its loop need not be run again, on whichever worker it goes on. `started`: a stage of it
    was ever sent to a worker. Jobs with one `batch_key` may share a task; "" is alone. `drop_if_late`: it is
    not to be finished late. `least_steps` are the fewest that it agreed to, `steps` if it agreed to none.
    `deadline_asked`: its client set the deadline, which else is ours. `node` has its last output, if any.
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
    started: bool = False
    batch_key: str = ""
    drop_if_late: bool = False
    least_steps: int | None = None
    deadline_asked: bool = False
    node: str = ""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """What a worker is busy with. `pending` are its stages not yet ended, `steps_done` of the loop.

    `workers` are all that have it, each of which shows it; none is for the one that shows it alone. `batch`
    is for how many jobs. `since_s` is when the pending stage, or the last step of the loop, was heard of.
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
    workers: tuple[str, ...] = ()
    since_s: float = 0.0
    steps_before: int = 0

    @property
    def degree(self) -> int:
        """How many workers have it."""
        return max(1, len(self.workers))


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One live worker. `resident` can run now; `loading` was asked for and is not there yet.

    `failed` could not be made resident there, and is not to be asked for again. `occupied`: it was told
    something else that comes before a run, like to describe a model or to forget one. `device`: its kind, by
    which costs are known. `memory_bytes`: what it may hold, None without a bound; `degrees`: of how many
    workers of its node, itself among them, a task of it may be.
    """

    worker_id: str
    node: str
    resident: frozenset[StageKey]
    loading: frozenset[StageKey] = frozenset()
    task: RunningTask | None = None
    failed: frozenset[StageKey] = frozenset()
    occupied: bool = False
    device: str = ""
    memory_bytes: int | None = None
    degrees: tuple[int, ...] = (1,)

    @property
    def is_held_up(self) -> bool:
        """Whether a run sent now would wait behind something that is no run."""
        return self.occupied or bool(self.loading)


@dataclass(frozen=True, slots=True)
class StageSample:
    """A stage that ended: `seconds` on `degree` workers for `steps` steps (1 for a stage without a loop).

    `batch` jobs shared it on average. `device` is the kind of the workers, `worker` one of them.
    `peak_bytes`: the most that it held beside the weights, None where that is not known.
    """

    model: str
    stage: str
    shape: Shape
    steps: int
    seconds: float
    ended_s: float
    warm_up: bool = False
    device: str = ""
    worker: str = ""
    degree: int = 1
    batch: int = 1
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model that is to be served. `stages` in order; the cost of `loop_stage` grows with steps.

    `weight_bytes` are those of each stage on a worker, `load_s` the seconds to load them; what is missing
    there is not known yet. `usual` is the shape to be ready for while nothing was asked for.
    """

    model: str
    stages: tuple[str, ...]
    loop_stage: str
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    load_s: Mapping[str, float] = field(default_factory=dict)
    usual: Shape | None = None


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
    FIRST_COME = "first_come"
    SHORTEST_FIRST = "shortest_first"
    MOST_REWARD = "most_reward"
    DEEPEST_FIRST = "deepest_first"
    SPARE_WORKERS = "spare_workers"
    LATE = "late"
    OVERDUE = "overdue"
    JOINS_BATCH = "joins_batch"
    MORE_URGENT = "more_urgent"
    HOPELESS = "hopeless"
    FEWER_STEPS = "fewer_steps"
    WAITING_JOBS = "waiting_jobs"
    NEEDED_NOW = "needed_now"
    INITIAL_PLACEMENT = "initial_placement"
    PINNED_PLACEMENT = "pinned_placement"
    WORKER_REPLACED = "worker_replaced"
    MODELS_CHANGED = "models_changed"
    MIX_SHIFTED = "mix_shifted"
    STAGE_FAILED = "stage_failed"
    NO_ROOM = "no_room"
    PLACEMENT_REVIEW = "placement_review"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run consecutive `stages` of `jobs` as one task on `workers` (`degree` of them, of one node).

    The first of them runs what is not the loop. Several jobs share the calls of one batch; `joins` is a job
    whose task is at its loop on that worker, and which these are to join.
    """

    stages: tuple[str, ...]
    jobs: tuple[str, ...]
    workers: tuple[str, ...]
    degree: int = 1
    reason: Reason = Reason.EARLIEST_DEADLINE
    joins: str | None = None
    detail: str = ""


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
class Reject:
    """`job`, and with it its request, is not to be served: it could not be on time. Nothing of it has run,
    unless it said `drop_if_late`. In `retry_after_s` one like it could be."""

    job: str
    retry_after_s: float
    reason: Reason = Reason.HOPELESS
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrade:
    """`job` is to take `steps` steps, fewer than it asked for and no fewer than it agreed to."""

    job: str
    steps: int
    reason: Reason = Reason.FEWER_STEPS
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAt:
    """Call `decide` again at `at_s` even if nothing happens."""

    at_s: float
    reason: Reason = Reason.PLACEMENT_REVIEW


Effect = Run | Load | Evict | Pause | Reject | Degrade | WakeAt


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts of the planner are on. Each can be off by itself, to see what it gives."""

    rejects: bool = True
    degrades: bool = True
    batches: bool = True
    joins: bool = True
    pauses: bool = True
    grows: bool = True
    reserves: bool = True
    places: bool = True


@dataclass(frozen=True, slots=True)
class Expected:
    """What a policy that is set up by hand is set up for: jobs of one kind, all kinds equally often."""

    model: str
    shape: Shape
    steps: int


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """`pinned`: worker id -> stages it holds (of every model), or empty for placement by the rule.

    `mix_window_s`: how far back the observed mix reaches, and further where it would hold fewer than
    `min_samples`. `min_dwell_s`: a placement lives at least this long, and a stage where it was just
    loaded. `min_samples`: the rule waits for this many jobs since the last change. `gain_margin`: how much
    more of the demand, relatively, another placement must serve. `horizon_s`: how long a change is to last
    over which its loads must pay. `policy` is a name of `planner.policies`, and `static_degree` that of every
    task under "b1". `expected`: what policies that are set up by hand go by, empty for all that was measured.
    """

    pinned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mix_window_s: float = 30.0
    min_dwell_s: float = 10.0
    min_samples: int = 12
    share_margin: float = 0.05
    gain_margin: float = 0.1
    horizon_s: float = 60.0
    parts: Parts = Parts()
    policy: str = "triptych"
    static_degree: int = 1
    expected: tuple[Expected, ...] = ()
