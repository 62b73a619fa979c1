"""What is told about what happened: one line of the journal and the metrics for each thing, in one place."""

from __future__ import annotations

import enum
import logging
import math
from collections import deque

import msgspec

from gateway.errors import DeadlineMissed
from gateway.fleet import Worker, WorkerState
from gateway.job import Job
from gateway.jobs import Outcome, Request
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.slip import SLIP, Slip
from gateway.tasks import Task
from gateway.timings import times_s
from pipelines.graph import Stage
from planner.types import Degrade, Evict, Load, Pause, Reason, Reject, Run
from wire.to_gateway import StageDone, StagesLoaded

log = logging.getLogger(__name__)

MAX_EFFECTS = 50
"""How many of the last effects are kept to be looked at."""

_ORIGINS = ("held", "host", "disk")


class Retry(enum.StrEnum):
    """Why a job's work was to be run again, or only went on later."""

    WORKER_LOST = "worker_lost"
    GIVEN_UP = "given_up"
    HANDOFF_LOST = "handoff_lost"
    STORE_FULL = "store_full"
    PAUSED = "paused"


Effect = Run | Load | Evict | Pause | Reject | Degrade


class CarriedOut(msgspec.Struct, frozen=True, kw_only=True):
    """An effect of the planner: "run", "join", "load", "evict", "pause", "reject" or "degrade".

    What it is not about is empty: no worker for a refusal, no job for a load. `jobs` share one task.
    """

    effect: str
    worker: str = ""
    model: str
    stages: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    degree: int = 1
    reason: Reason
    detail: str
    at_s: float

    @property
    def job(self) -> str | None:
        return self.jobs[0] if self.jobs else None


class Accounts:
    """Writes to the log, to `journal` and to `metrics`. Prompts go to none of them."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self.metrics = metrics
        self._journal = journal
        self.effects: deque[CarriedOut] = deque(maxlen=MAX_EFFECTS)
        metrics.watch_journal(journal)
        self._slips: dict[str, Slip] = {}

    def request_began(self, request: Request) -> None:
        """It is about to be accepted or refused by the handler that calls."""
        if (slip := SLIP.get()) is not None:
            slip.request = request
            self._slips[request.request_id] = slip

    def stage_ended(
        self,
        worker: Worker,
        task: Task,
        stage: Stage,
        done: StageDone,
        *,
        steps: int,
        from_step: int,
        batch: int,
        request_id: str | None,
    ) -> None:
        """`batch`: how many tasks shared the stage's calls, a loop's on average."""
        if (slip := self._slips.get(request_id or "")) is not None:
            slip.ran(stage.name, worker.worker_id)
        if not task.is_warm_up:
            seconds = done.ended_at_s - done.started_at_s
            self.metrics.stage_seconds.labels(task.model, stage.name).observe(seconds)
            if stage.kind == "diffuse":
                self.metrics.step_seconds.labels(task.model, stage.name).observe(seconds / max(1, steps))
            if stage.kind != "decode":
                self.metrics.batch_jobs.labels(task.model, stage.name).observe(batch)
        self._journal.record(
            "stage",
            worker=worker.worker_id,
            job=task.job_id,
            request=request_id,
            model=task.model,
            stage=stage.name,
            kind=stage.kind,
            started_at_s=done.started_at_s,
            ended_at_s=done.ended_at_s,
            overhead_s=done.overhead_s,
            steps=steps,
            from_step=from_step,
            batch=batch,
        )

    def loop_left(
        self, worker: Worker, task: Task, stage: Stage, *, steps: int, request_id: str, at_s: float
    ) -> None:
        """A task was paused `steps` steps behind where its loop had begun."""
        self._journal.record(
            "left",
            worker=worker.worker_id,
            job=task.job_id,
            request=request_id,
            model=task.model,
            stage=stage.name,
            kind=stage.kind,
            started_at_s=task.stage_since_s,
            ended_at_s=at_s,
            steps=steps,
            from_step=task.from_step,
        )

    def effect(self, effect: Effect, model: str, at_s: float) -> None:
        """An effect of the planner was carried out, for `model`."""
        told = _carried_out(effect, model, at_s)
        self.effects.append(told)
        self.metrics.effects.labels(model, told.effect, str(told.reason)).inc()
        log.log(
            logging.INFO if isinstance(effect, Load | Evict) else logging.DEBUG,
            "%s: %s %s of %s (%s%s)",
            told.worker or "planner",
            told.effect,
            ", ".join(told.stages) or "the rest",
            ", ".join(told.jobs) or model,
            told.reason,
            f": {told.detail}" if told.detail else "",
        )
        match effect:
            case Load() | Evict() | Run():
                self._journal.record("effect", **msgspec.structs.asdict(told))
            case Pause() | Reject() | Degrade():
                self._journal.record(
                    told.effect,
                    worker=told.worker,
                    model=model,
                    job=told.job,
                    reason=told.reason,
                    detail=told.detail,
                    at_s=at_s,
                )

    def request_ended(self, request: Request) -> None:
        """Accepted or refused, the request has its outcome."""
        assert request.outcome is not None
        generation = request.jobs[0].generation
        self._slips.pop(request.request_id, None)
        error = request.error
        status = 200 if error is None else error.http_status
        times = times_s(request.slowest)
        model, outcome = request.jobs[0].model, str(request.outcome)
        self.metrics.requests.labels(model, outcome, "" if error is None else error.code).inc()
        self.metrics.request_seconds.labels(model, outcome).observe(times["total"])
        if request.outcome in (Outcome.DONE, Outcome.FAILED) or isinstance(error, DeadlineMissed):
            self.metrics.queue_seconds.labels(model).observe(times["queue"])
            self.metrics.deadlines.labels(model, str(request.deadline_met).lower()).inc()
        self._journal.record(
            "request",
            request=request.request_id,
            model=model,
            outcome=request.outcome,
            status=status,
            code=None if error is None else error.code,
            n=len(request.jobs),
            size=f"{generation.width_px}x{generation.height_px}",
            steps=generation.num_inference_steps,
            times_s=times,
            deadline_s=request.jobs[0].deadline_s - request.arrived_s,
            deadline_met=request.deadline_met,
            exactness=request.exactness,
            at_s=request.ended_s,
        )

    def retried(self, job: Job, why: Retry) -> None:
        """`job` goes on from what is kept of it."""
        self.metrics.retries.labels(job.model, str(why)).inc()
        if (slip := self._slips.get(job.request_id)) is not None:
            slip.retries[str(why)] += 1

    def checkpoint_saved(self, job: Job, n_bytes: int) -> None:
        self.metrics.checkpoints.labels(job.model).inc()
        self.metrics.checkpoint_bytes.labels(job.model).inc(n_bytes)

    def worker_changed(self, worker: Worker, at_s: float, reason: str = "") -> None:
        """It is in another state now."""
        if worker.state is WorkerState.GIVEN_UP:
            log.error("%s is given up: it never came up whole, last: %s", worker.worker_id, reason)
        self._journal.record("worker", worker=worker.worker_id, state=worker.state, reason=reason, at_s=at_s)

    def worker_exited(self, worker: Worker, reason: str) -> None:
        """Its process ended unasked; that it is dead is told by `worker_changed`."""
        log.warning("%s ended: %s", worker.worker_id, reason)
        self.metrics.restarts.labels(worker.worker_id).inc()

    def loaded(self, worker: Worker, message: StagesLoaded, at_s: float) -> None:
        """Stages of a model are there, and `message` says what came from where."""
        log.info(
            "%s: loaded %s of %s in %.2f s (%s)",
            worker.worker_id,
            ", ".join(message.stages),
            message.model,
            message.load_s,
            ", ".join(f"{part} from {origin}" for part, origin in message.origins.items()) or "all there",
        )
        for note in message.notes:
            log.warning("%s: %s", worker.worker_id, note)
        if math.isfinite(message.load_s):
            self.metrics.load_seconds.labels(message.model).observe(max(0.0, message.load_s))
        for origin in message.origins.values():
            self.metrics.loaded_parts.labels(message.model, origin if origin in _ORIGINS else "other").inc()
        self._journal.record(
            "load",
            worker=worker.worker_id,
            model=message.model,
            stages=message.stages,
            load_s=message.load_s,
            origins=message.origins,
            notes=message.notes,
            resident_bytes=message.resident_bytes,
            host_bytes=message.host_bytes,
            at_s=at_s,
        )

    def model_changed(self, model: str, status: str, reason: str, at_s: float) -> None:
        """A model is in another state now, or gone."""
        log.info("%s is %s%s", model, status, f": {reason}" if reason else "")
        self._journal.record("model", model=model, status=status, reason=reason, at_s=at_s)

    def worker_killed(self, worker: Worker, reason: str, at_s: float) -> None:
        """It is silent, stuck or wrong, and is about to be ended."""
        self.metrics.kills.labels(worker.worker_id).inc()
        log.error("%s is killed: %s", worker.worker_id, reason)
        self._journal.record("kill", worker=worker.worker_id, reason=reason, at_s=at_s)


def _carried_out(effect: Effect, model: str, at_s: float) -> CarriedOut:
    told = CarriedOut(
        effect=type(effect).__name__.lower(),
        model=model,
        reason=effect.reason,
        detail=effect.detail,
        at_s=at_s,
    )
    match effect:
        case Run():
            return msgspec.structs.replace(
                told,
                effect="run" if effect.joins is None else "join",
                worker=effect.workers[0],
                stages=effect.stages,
                jobs=effect.jobs,
                degree=effect.degree,
            )
        case Load() | Evict():
            return msgspec.structs.replace(told, worker=effect.worker, stages=effect.stages)
        case Pause():
            return msgspec.structs.replace(told, worker=effect.worker, jobs=(effect.job,))
        case Reject() | Degrade():
            return msgspec.structs.replace(told, jobs=(effect.job,))
