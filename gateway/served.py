"""One model of the gateway: where it stands, as a table, and what is made of it once its stages are known.

            LOADED
LOADING ------------> READY          from any state: UNLOAD -> UNLOADING, and then it is gone
   ^  | FAIL            | FAIL
   |  `----> FAILED <---'
   `-----------'
       LOAD
"""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.errors import InternalError, ModelNotFound, NotReady
from gateway.runs import Runs
from pipelines.catalogue import Model
from pipelines.graph import StageGraph


class Status(enum.StrEnum):
    """As `GET /v1/models` shows it."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


class Event(enum.StrEnum):
    """What can happen to a model. `LOADED`: every stage has run once on some worker."""

    LOADED = "loaded"
    FAIL = "fail"
    LOAD = "load"
    UNLOAD = "unload"


NEXT: MappingProxyType[Status, dict[Event, Status]] = MappingProxyType(
    {
        Status.LOADING: {
            Event.LOADED: Status.READY,
            Event.FAIL: Status.FAILED,
            Event.UNLOAD: Status.UNLOADING,
        },
        Status.READY: {Event.FAIL: Status.FAILED, Event.UNLOAD: Status.UNLOADING},
        Status.FAILED: {Event.LOAD: Status.LOADING, Event.UNLOAD: Status.UNLOADING},
        Status.UNLOADING: {},
    }
)


class Leaving(enum.Enum):
    """How far a model is on its way out: its requests end, then its tasks, then workers forget it."""

    DRAINING = enum.auto()
    ENDING = enum.auto()
    FORGETTING = enum.auto()


@dataclass(slots=True, eq=False)
class ServedModel:
    """One model of the catalogue that is served, is about to be, or was.

    `at_start`: it was named at start and never unloaded. `described_by` is the worker that was asked for its
    stages; `graph` is there once they are known, with the `weight_bytes` of each as far as they are;
    `runs` once they are placed. `leaving`: what there is of it
    is on its way out, before it is gone or loaded anew; open requests have until `drain_until_s`, and `told`
    are the workers that have yet to say that they forgot it. `n_lost` workers died while they loaded it,
    `sick` are workers and stages whose last first run failed. `settled` is set while it is not LOADING.
    """

    name: str
    model: Model
    at_start: bool = False
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: Status = Status.LOADING
    reason: str = ""
    graph: StageGraph | None = None
    weight_bytes: dict[str, int] = field(default_factory=dict)
    runs: Runs | None = None
    described_by: str | None = None
    leaving: Leaving | None = None
    drain_until_s: float = 0.0
    told: set[str] = field(default_factory=set)
    n_lost: int = 0
    sick: set[tuple[str, str]] = field(default_factory=set)
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def advance(self, event: Event, reason: str = "") -> None:
        """Move along the table. Raises `InternalError` for what cannot happen, and then nothing changed."""
        try:
            self.status = NEXT[self.status][event]
        except KeyError:
            raise InternalError(f"{event} cannot happen to {self.name}, which is {self.status}") from None
        self.reason = reason
        if self.status is Status.LOADING:
            self.settled.clear()
        else:
            self.settled.set()

    def opened(self) -> StageGraph:
        """Its stages. Raises `NotReady` or `ModelNotFound` if it takes no requests now."""
        if self.status is Status.READY and self.graph is not None:
            return self.graph
        if self.status is Status.LOADING:
            raise NotReady(f"{self.name} is not ready yet; /v1/models/{self.name} says what is missing")
        raise ModelNotFound(f"the model {self.name!r} is no longer served here", param="model")

    def not_ready_reason(self) -> str | None:
        """Why it cannot be served whole right now, None if it can."""
        if self.status in (Status.FAILED, Status.UNLOADING):
            return f"{self.name} is {self.status}{f': {self.reason}' if self.reason else ''}"
        if self.runs is None:
            return f"the stages of {self.name} are not known yet"
        if missing := self.runs.warm_ups.missing():
            return f"{', '.join(missing)} of {self.name} is not loaded and warmed on any worker"
        return None
