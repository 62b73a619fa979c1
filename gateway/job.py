"""A job: one picture on its way through the stages, and what it owns in the handoff store. No I/O.

That is at most two files: the output of the last stage that is durable, and behind the stage before the loop
also the newest checkpoint of the loop. Methods that put another file in place of one return what is to be
freed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from gateway.encodes import Encoded, EncodeKey
from gateway.lifecycle import BACK_TO, ENDED, STARTED, Event, State, advance
from pipelines.graph import StageGraph
from planner.types import JobView, Priority, Shape
from wire.generation import Exactness, Generation, allows, weakest
from wire.handle import Handle


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The loop of a job after `step` steps, in the store. `exactness` is what those steps kept."""

    step: int
    handle: Handle
    exactness: Exactness = Exactness.BITWISE


@dataclass(slots=True, eq=False)
class Job:
    """One picture on its way. Times are the gateway's monotonic seconds.

    `n_durable` stages are behind it, whose last output is `handoff`; with a `checkpoint` it goes on within
    the next one, the loop. `task_id` is set while a worker has it; `n_ended` counts the stages that ended
    within that task too. `furthest` is the last step boundary ever passed, as (stage index, step); `died_at`
    is what it was when a worker last died in a stage. `encode_key` is what its encode result is known by,
    None where that is not shared; `looked_up_at` how many results were known when it was last looked for.
    `exactness` is what was kept so far. `is_started`: a stage of its request was ever sent to a worker.
    `least_steps`: the fewest that it agreed to, None if to none but what it asked for.
    """

    job_id: str
    request_id: str
    generation: Generation
    graph: StageGraph
    shape: Shape
    arrived_s: float
    deadline_s: float
    priority: Priority = "standard"
    encode_key: EncodeKey | None = None
    state: State = State.QUEUED
    entered_s: float = 0.0
    spent_s: dict[State, float] = field(default_factory=dict)
    n_durable: int = 0
    n_ended: int = 0
    handoff: Handle | None = None
    checkpoint: Checkpoint | None = None
    task_id: str | None = None
    hold_until_s: float = 0.0
    furthest: tuple[int, int] = (0, 0)
    died_at: dict[int, tuple[int, int]] = field(default_factory=dict)
    n_store_full: int = 0
    n_handoff_lost: int = 0
    exactness: Exactness = Exactness.BITWISE
    looked_up_at: int = -1
    picture: bytes | None = None
    is_started: bool = False
    least_steps: int | None = None
    deadline_asked: bool = False
    drop_if_late: bool = False
    _view: JobView | None = None
    _viewed_as: tuple[object, ...] = ()

    @property
    def model(self) -> str:
        return self.graph.model

    @property
    def steps(self) -> int:
        return self.generation.num_inference_steps

    @property
    def steps_done(self) -> int:
        """Steps of the loop that need not be run again."""
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def is_open(self) -> bool:
        return not self.state.is_terminal

    @property
    def pending(self) -> tuple[str, ...]:
        """Stages that have not ended, in order."""
        return self.graph.names[self.n_ended :]

    @property
    def n_encode(self) -> int:
        """How many stages come before the loop."""
        return self.graph.names.index(self.graph.loop_stage)

    @property
    def loop_can_resume(self) -> bool:
        """Whether it is in the loop, and what the loop began with is durable."""
        return self.n_ended == self.n_durable == self.n_encode

    @property
    def batch_key(self) -> str:
        """Jobs of one model with the same one may share calls; "": it is run alone.

        So is one under which a worker died: if it is to blame, it shall not take others along again.
        """
        asked = self.generation
        if asked.exactness is Exactness.BITWISE or self.died_at:
            return ""
        adapter = asked.adapter
        return asked.workflow if adapter is None else f"{asked.workflow} {adapter.name} {adapter.scale}"

    def allows(self, kept: Exactness) -> bool:
        """Whether `kept` is as much as its request asked for."""
        return allows(self.generation.exactness, kept)

    def can_run(self, stages: tuple[str, ...]) -> bool:
        """Whether `stages` are the next ones and no worker has it."""
        return self.task_id is None and self.pending[: len(stages)] == stages

    def advance(self, event: Event, now_s: float) -> None:
        """Move along the table and stamp the time. Raises `IllegalTransition`, and then nothing changed."""
        after = advance(self.state, event)
        self.spent_s[self.state] = self.spent_s.get(self.state, 0.0) + max(0.0, now_s - self.entered_s)
        self.state = after
        self.entered_s = now_s

    def stage_started(self, now_s: float) -> None:
        """The next pending stage runs now."""
        self.advance(STARTED[self.graph.stages[self.n_ended].kind], now_s)

    def stage_ended(self, now_s: float) -> None:
        """The running stage ended; its output may still be in the worker's memory only."""
        ended = self.graph.stages[self.n_ended]
        self.n_ended += 1
        self.furthest = max(self.furthest, (self.n_ended, 0))
        later = self.graph.stages[self.n_ended :]
        if not later or later[0].kind != ended.kind:
            self.advance(ENDED[ended.kind], now_s)

    def step_done(self, step: int) -> None:
        self.furthest = max(self.furthest, (self.n_ended, step))

    def skip_encode(self, encoded: Encoded, now_s: float) -> list[Handle]:
        """No worker has it, and `encoded` is what its encode stages would make."""
        self.advance(Event.ENCODE_SKIPPED, now_s)
        self.n_ended = self.n_encode
        return self.keep_within_task(encoded)

    def keep_within_task(self, encoded: Encoded) -> list[Handle]:
        """`encoded` is the output of the stage that just ended; the task goes on."""
        self.exactness = weakest((self.exactness, encoded.exactness))
        return self._durable(encoded.handle)

    def keep(self, handoff: Handle) -> list[Handle]:
        """The task ended and `handoff` is its output."""
        self.task_id = None
        return self._durable(handoff)

    def save(self, checkpoint: Checkpoint) -> list[Handle]:
        """Its loop can go on from `checkpoint`. Only while `loop_can_resume`."""
        freed = [self.checkpoint.handle] if self.checkpoint else []
        self.checkpoint = checkpoint
        self.step_done(checkpoint.step)
        return freed

    def pause(self, checkpoint: Checkpoint, now_s: float) -> list[Handle]:
        """Its task left the loop with `checkpoint`. Only while `loop_can_resume`."""
        self.advance(Event.PAUSED, now_s)
        self.task_id = None
        return self.save(checkpoint)

    def can_degrade(self, steps: int) -> bool:
        """Whether it may take so few steps instead of its own: it agreed, and its loop has not begun."""
        agreed = self.least_steps is not None and self.least_steps <= steps < self.steps
        return agreed and self.task_id is None and self.checkpoint is None and self.n_ended <= self.n_encode

    def degrade(self, steps: int) -> None:
        """Take so few steps. Only if it `can_degrade`."""
        self.generation = msgspec.structs.replace(self.generation, num_inference_steps=steps)
        self.exactness = weakest((self.exactness, Exactness.APPROXIMATE))

    def rewind(self, now_s: float) -> None:
        """Back to the last point whose handoff exists, or to the start."""
        self.task_id = None
        self.n_ended = self.n_durable
        self.advance(BACK_TO[self.graph.stages[self.n_ended].kind], now_s)

    def forget_checkpoint(self) -> list[Handle]:
        """Its loop will begin at its first step."""
        freed = [self.checkpoint.handle] if self.checkpoint else []
        self.checkpoint = None
        return freed

    def forget_all(self) -> list[Handle]:
        """It owns nothing any more; if it is to go on, then from the start."""
        freed = [*self.forget_checkpoint(), *([self.handoff] if self.handoff else [])]
        self.handoff = None
        self.n_durable = 0
        return freed

    def died(self) -> bool:
        """A worker died with this job. True if that makes it poison: twice in a stage, no step gained."""
        poison = self.died_at.get(self.n_ended) == self.furthest
        self.died_at[self.n_ended] = self.furthest
        return poison

    def view(self) -> JobView:
        """What the planner sees. Made anew only when it has changed: every turn asks every job."""
        now = (
            self.task_id,
            self.n_ended,
            self.handoff,
            self.checkpoint,
            self.generation,
            self.is_started,
            len(self.died_at),
        )
        seen = self._view
        if seen is None or now != self._viewed_as:
            seen, self._viewed_as = self._viewed(), now
            self._view = seen
        return seen

    def _viewed(self) -> JobView:
        return JobView(
            job_id=self.job_id,
            model=self.model,
            shape=self.shape,
            steps=self.steps,
            pending=self.pending,
            arrived_s=self.arrived_s,
            deadline_s=self.deadline_s,
            running=self.task_id is not None,
            steps_done=self.steps_done,
            priority=self.priority,
            started=self.is_started,
            batch_key=self.batch_key,
            drop_if_late=self.drop_if_late,
            least_steps=self.least_steps,
            deadline_asked=self.deadline_asked,
            node=self.handoff.node if self.handoff else "",
        )

    def _durable(self, handoff: Handle) -> list[Handle]:
        freed = self.forget_all()
        self.handoff = handoff
        self.n_durable = self.n_ended
        return freed
