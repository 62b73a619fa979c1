"""What is known of each worker, from its messages and from the supervisor. No I/O, no decisions.

A stage is `loading` from the moment it was asked for until its warm-up ended, then `resident`: a stage that
was loaded but never run would make its first request pay for it. One that could not be loaded or run has
`failed` for as long as the process lives.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.tasks import Task, view_of
from planner.types import StageKey, WorkerView
from wire.to_gateway import Heartbeat, Hello, KernelCalls, Phase


class WorkerState(enum.StrEnum):
    """`STARTING` until its Hello, `DEAD` until it is started again, `GIVEN_UP` for good."""

    STARTING = "starting"
    UP = "up"
    DEAD = "dead"
    GIVEN_UP = "given_up"


@dataclass(slots=True, eq=False)
class Worker:
    """One worker of the configuration, through all its incarnations.

    `batch` has the device: one task, or several that share the calls of their loops; in the order in which
    they were sent, and some may be waiting for it. `finishing` are tasks, by id, whose device work is over
    and whose picture is still being encoded beside it. `kind`: of its device, by which costs are known, ""
    before its Hello. `unanswered`: so many times it was told to describe, to measure or to forget a model.
    `kernels`: which way its calls went, as it last told.
    """

    worker_id: str
    device: str
    state: WorkerState = WorkerState.STARTING
    since_s: float = 0.0
    hello: Hello | None = None
    kind: str = ""
    resident: set[StageKey] = field(default_factory=set)
    unwarmed: set[StageKey] = field(default_factory=set)
    asked: set[StageKey] = field(default_factory=set)
    failed: set[StageKey] = field(default_factory=set)
    unanswered: int = 0
    resident_bytes: int = 0
    batch: list[Task] = field(default_factory=list)
    finishing: dict[str, Task] = field(default_factory=dict)
    heard_at_s: float = 0.0
    phase: Phase = Phase.STARTING
    phase_since_s: float = 0.0
    condemned: bool = False
    n_exits: int = 0
    last_exit: str = ""
    kernels: tuple[KernelCalls, ...] = ()

    @property
    def is_up(self) -> bool:
        return self.state is WorkerState.UP

    @property
    def is_free(self) -> bool:
        """Up and without a task."""
        return self.is_up and not self.batch and not self.condemned

    @property
    def task(self) -> Task | None:
        """The task that has the device, the oldest of a batch."""
        return self.batch[0] if self.batch else None

    def started(self, now_s: float) -> None:
        """A process was started; nothing of its predecessor is true of it."""
        self._forget(WorkerState.STARTING, now_s)

    def exited(self, reason: str) -> None:
        """Its process has ended unasked: counted, and kept until the next one does."""
        self.n_exits += 1
        self.last_exit = reason

    def greeted(self, hello: Hello, now_s: float) -> None:
        self._forget(WorkerState.UP, now_s)
        self.hello = hello
        self.kind = hello.device_name + (f", threads {hello.threads}" if hello.device == "cpu" else "")
        self.phase = Phase.IDLE

    def lost(self, now_s: float, *, for_good: bool = False) -> list[Task]:
        """It is gone. Returns the tasks it had."""
        tasks = self.tasks
        self._forget(WorkerState.GIVEN_UP if for_good else WorkerState.DEAD, now_s)
        return tasks

    @property
    def tasks(self) -> list[Task]:
        """Every task without a terminal message yet."""
        return [*self.finishing.values(), *self.batch]

    def task_of(self, task_id: str) -> Task | None:
        return next((task for task in self.tasks if task.task_id == task_id), None)

    def device_ended(self, task: Task) -> None:
        """It needs the device no more; its terminal message is still to come."""
        self.finishing[task.task_id] = task
        self.batch = [other for other in self.batch if other is not task]

    def ended(self, task: Task) -> None:
        """Its terminal message came."""
        self.finishing.pop(task.task_id, None)
        self.batch = [other for other in self.batch if other is not task]

    def heard(self, now_s: float) -> None:
        self.heard_at_s = now_s

    def beat(self, heartbeat: Heartbeat, now_s: float) -> None:
        """A heartbeat shows the phase, and progress even if a message was late: another place than before."""
        self.phase, self.phase_since_s = heartbeat.phase, now_s - heartbeat.since_s
        self.kernels = heartbeat.kernels
        place = (heartbeat.stage, heartbeat.step)
        task = next((task for task in self.batch if task.task_id == heartbeat.task_id), None)
        if task and place != task.beaten_at:
            task.beaten_at, task.moved_at_s = place, now_s

    def view(self) -> WorkerView:
        return WorkerView(
            worker_id=self.worker_id,
            node=self.hello.node if self.hello else "",
            resident=frozenset(self.resident),
            loading=frozenset(self.asked | self.unwarmed),
            task=view_of(self.batch) if self.batch else None,
            failed=frozenset(self.failed),
            occupied=self.unanswered > 0,
            device=self.kind,
            memory_bytes=self.hello.memory_bytes if self.hello else None,
        )

    def loaded(self, keys: set[StageKey]) -> None:
        """Stages that it was asked for are there, and have never run."""
        self.asked -= keys
        self.unwarmed |= keys

    def warmed(self, key: StageKey) -> None:
        """A stage has run once."""
        self.unwarmed.discard(key)
        self.resident.add(key)

    def refused(self, keys: set[StageKey]) -> None:
        """They cannot be made resident in this process."""
        self.asked -= keys
        self.unwarmed -= keys
        self.failed |= keys

    def is_loading(self, model: str) -> bool:
        """Whether a stage of `model` is on its way."""
        return any(key[0] == model for key in self.asked | self.unwarmed)

    def forget(self, model: str) -> None:
        """Nothing of `model` is there any more, nor asked for."""
        for keys in (self.resident, self.unwarmed, self.asked, self.failed):
            keys -= {key for key in keys if key[0] == model}

    def _forget(self, state: WorkerState, now_s: float) -> None:
        self.state = state
        self.since_s = self.heard_at_s = now_s
        self.hello = None
        self.kind = ""
        self.resident.clear()
        self.unwarmed.clear()
        self.asked.clear()
        self.failed.clear()
        self.unanswered = 0
        self.resident_bytes = 0
        self.batch = []
        self.finishing.clear()
        self.kernels = ()
        self.phase, self.phase_since_s = Phase.STARTING, now_s
        self.condemned = False


class Fleet:
    """The workers of the configuration, by id. `host_bytes`: of host copies of weights, by node."""

    def __init__(self, devices: dict[str, str]) -> None:
        """`devices`: worker id -> device."""
        self._workers = {worker_id: Worker(worker_id, device) for worker_id, device in devices.items()}
        self.host_bytes: dict[str, int] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def get(self, worker_id: str) -> Worker | None:
        return self._workers.get(worker_id)

    def __getitem__(self, worker_id: str) -> Worker:
        return self._workers[worker_id]

    def holds(self, worker: Worker, resident_bytes: int, host_bytes: int) -> None:
        """What `worker` says of its own weights, and of the copies that all workers of its node share."""
        worker.resident_bytes = resident_bytes
        if worker.hello is not None:
            self.host_bytes[worker.hello.node] = host_bytes

    def up(self) -> list[Worker]:
        return [worker for worker in self if worker.is_up]

    def views(self) -> tuple[WorkerView, ...]:
        """Live workers as the planner sees them. One that is to be killed is as good as dead."""
        return tuple(worker.view() for worker in self.up() if not worker.condemned)

    def resident(self) -> set[StageKey]:
        """Stages that some live worker can run now."""
        return set().union(*(worker.resident for worker in self.up()))

    def statistics(self) -> dict[str, int]:
        """Workers per state, and how many have a task."""
        counts = {str(state): sum(worker.state is state for worker in self) for state in WorkerState}
        return counts | {"busy": sum(bool(worker.batch) for worker in self)}
