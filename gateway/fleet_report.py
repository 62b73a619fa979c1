"""The body of `GET /v1/fleet`: what the gateway knows at one moment. Prompts are in none of it.

Moments (`_unix_s`) are Unix times, so that they can be laid beside logs; durations end in `_s`. Stages are
told by model.
"""

from __future__ import annotations

import msgspec

from gateway.fleet import WorkerState
from gateway.lifecycle import State
from gateway.served import Status
from planner.types import Priority, Reason
from wire.to_gateway import Phase

StagesByModel = dict[str, tuple[str, ...]]


class GatewayReport(msgspec.Struct, frozen=True, kw_only=True):
    """`not_ready` is what `/ready` says, None if it is; `draining`: it takes no new requests.

    `kernels`: the setting that pictures are made with.
    """

    version: str
    protocol: int
    uptime_s: float
    not_ready: str | None
    draining: bool
    open_requests: int
    kernels: str


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """`reason`: why it cannot be served whole now, None if it can. `at_start`: `/ready` waits for it."""

    id: str
    status: Status
    reason: str | None
    at_start: bool


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One task on a worker; a warm-up has no job. `stage` runs or is next, None behind the last.

    `step` of `steps` are done while `stage` is the model's loop, None otherwise. `moved_unix_s` is when it
    was last heard to get on. `batch` tasks have the worker's device, this one among them, and share the calls
    of their loops; each is on `degree` workers.
    """

    id: str
    model: str
    stages: tuple[str, ...]
    stage: str | None
    step: int | None
    steps: int
    job: str | None
    request: str | None
    since_unix_s: float
    moved_unix_s: float
    pausing: bool
    batch: int
    degree: int


class KernelReport(msgspec.Struct, frozen=True, kw_only=True):
    """So many `calls` of `op` went to `path`, "triton" or "torch", since the worker's process began.

    `reason`: why they fell back to torch, None for the kernel's and for torch's where that was measured
    faster.
    """

    op: str
    path: str
    reason: str | None
    calls: int


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """`since_unix_s`: of its state. What is of a process (`device_name` to `threads`) is None without one.

    `loading`: asked for, or loaded and not warm yet; `failed`: those that this process cannot hold.
    `task` has the device, the oldest of those that share it; `joined` are the others. `finishing`: tasks
    whose device work is over. `to_be_killed`: it is silent, stuck or wrong, and has yet to end.
    """

    id: str
    device: str
    device_name: str | None
    node: str | None
    pid: int | None
    threads: int | None
    state: WorkerState
    since_unix_s: float
    phase: Phase
    heard_unix_s: float
    to_be_killed: bool
    restarts: int
    last_exit: str | None
    resident: StagesByModel
    loading: StagesByModel
    failed: StagesByModel
    resident_bytes: int
    task: TaskReport | None
    joined: tuple[TaskReport, ...]
    finishing: tuple[TaskReport, ...]
    kernels: tuple[KernelReport, ...]


class WaitingReport(msgspec.Struct, frozen=True, kw_only=True):
    """A job that no worker has. `slack_s`: until its deadline, negative when that has passed.

    `held_s`: how long it is still kept back after a setback. `degraded`: it is to take fewer steps than were
    asked for.
    """

    job: str
    request: str
    model: str
    stage: str
    state: State
    priority: Priority
    age_s: float
    slack_s: float
    held_s: float
    step: int
    steps: int
    degraded: bool


class QueueReport(msgspec.Struct, frozen=True, kw_only=True):
    """`first` are the jobs that go first, in that order, at most 200 of the `total` that wait."""

    total: int
    first: tuple[WaitingReport, ...]
    jobs_by_state: dict[State, int]


class PlacedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to hold. `parts`: by model, E before the loop, D the loop, C behind it.

    `replica`: by model, the type of virtual replica, V0 to V3, of a worker with the loop.
    """

    stages: StagesByModel
    parts: dict[str, str]
    replica: dict[str, str]
    since_unix_s: float


class DemandReport(msgspec.Struct, frozen=True, kw_only=True):
    """GPU-seconds a second that are forecast for a stage."""

    model: str
    stage: str
    gpu_seconds_per_s: float


class PlacementReport(msgspec.Struct, frozen=True, kw_only=True):
    """`workers` by id. `rate`: how many times the `forecast` of its making it serves, None if that is none.

    `homeless`: stages that no worker has room for.
    """

    workers: dict[str, PlacedReport]
    since_unix_s: float
    reason: Reason
    detail: str
    rate: float | None
    forecast: tuple[DemandReport, ...]
    homeless: StagesByModel


class ArrivalsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures a second that are forecast of one kind."""

    model: str
    size: str
    frames: int
    steps: int
    per_s: float


class PlannerReport(msgspec.Struct, frozen=True, kw_only=True):
    """`parts`: those that are on. `arrivals` and `demand` are forecast now.

    The placement serves `rate` times as much; None while nothing is asked for.
    """

    policy: str
    parts: tuple[str, ...]
    arrivals: tuple[ArrivalsReport, ...]
    demand: tuple[DemandReport, ...]
    rate: float | None


class EffectReport(msgspec.Struct, frozen=True, kw_only=True):
    """One effect of the planner that was carried out.

    It is "run", "join" (a loop that runs), "load", "evict", "pause", "reject" or "degrade". What it is not
    about is empty; `jobs` share one task on `degree` workers, `worker` first.
    """

    effect: str
    at_unix_s: float
    worker: str
    model: str
    stages: tuple[str, ...]
    jobs: tuple[str, ...]
    degree: int
    reason: Reason
    detail: str


class StoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """The handoff store. `n_bytes` are of all its files, `owned_bytes` of the `files` that have an owner."""

    n_bytes: int
    capacity_bytes: int
    files: int
    owned_bytes: int


class EncodeCacheReport(msgspec.Struct, frozen=True, kw_only=True):
    entries: int
    n_bytes: int
    hits: int
    misses: int


class FleetReport(msgspec.Struct, frozen=True, kw_only=True):
    """`effects`: the last 50, the newest last. `host_weights_bytes`: host copies of weights, by node."""

    at_unix_s: float
    gateway: GatewayReport
    models: tuple[ModelReport, ...]
    workers: tuple[WorkerReport, ...]
    queue: QueueReport
    planner: PlannerReport
    placement: PlacementReport | None
    effects: tuple[EffectReport, ...]
    store: StoreReport
    encode_cache: EncodeCacheReport
    host_weights_bytes: dict[str, int]
