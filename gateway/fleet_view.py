"""`GET /v1/fleet`: who does what now, what waits, and what was decided last. Reads only, and all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields

import msgspec
from aiohttp import web

from gateway.accounts import CarriedOut
from gateway.decisions import Planner
from gateway.fleet import Worker
from gateway.fleet_report import (
    ArrivalsReport,
    DemandReport,
    EffectReport,
    EncodeCacheReport,
    FleetReport,
    GatewayReport,
    KernelReport,
    ModelReport,
    PlacedReport,
    PlacementReport,
    PlannerReport,
    QueueReport,
    StagesByModel,
    StoreReport,
    TaskReport,
    WaitingReport,
    WorkerReport,
)
from gateway.job import Job
from gateway.jobs import JobBook
from gateway.keys import ENGINE
from gateway.lifecycle import State
from gateway.loop import Engine
from gateway.tasks import Task
from gateway.version import VERSION
from planner.dispatch import precedence
from planner.parts import letters, replica_type
from planner.placement import Placement
from planner.types import ModelView, Parts, StageKey
from wire.codec import PROTOCOL_VERSION
from wire.generation import Exactness

MAX_WAITING_SHOWN = 200

ToUnix = Callable[[float], float]
"""From the gateway's monotonic clock to Unix time."""


async def get_fleet(request: web.Request) -> web.Response:
    """A `FleetReport`."""
    engine = request.app[ENGINE]
    # the folder is read in a thread; all that follows is of one moment
    store_bytes = await engine.handoffs.used_bytes()
    report = fleet_report(engine, store_bytes)
    return web.Response(body=msgspec.json.encode(report), content_type="application/json")


def fleet_report(engine: Engine, store_bytes: int) -> FleetReport:
    """What is so now. `store_bytes`: of all files in the handoff store."""
    now_s, now_unix_s = engine.now_s(), time.time()

    def to_unix(at_s: float) -> float:
        return round(now_unix_s - now_s + at_s, 3)

    handoffs, encodes = engine.handoffs.statistics(), engine.encodes.statistics()
    placement = engine.planner.placement
    return FleetReport(
        at_unix_s=round(now_unix_s, 3),
        gateway=GatewayReport(
            version=VERSION,
            protocol=PROTOCOL_VERSION,
            uptime_s=round(now_s - engine.began_s, 3),
            not_ready=engine.not_ready_reason(),
            draining=engine.desk.refusing is not None,
            open_requests=len(engine.book.open_requests),
            kernels=engine.config.kernels,
        ),
        models=tuple(
            ModelReport(
                id=served.name,
                status=served.status,
                reason=served.not_ready_reason(),
                at_start=served.at_start,
            )
            for served in engine.roster
        ),
        workers=tuple(_worker(worker, engine, to_unix) for worker in engine.fleet),
        queue=_queue(engine.book, now_s),
        planner=_planner(engine.planner),
        placement=None if placement is None else _placement(placement, engine.planner.models, to_unix),
        effects=tuple(_effect(carried_out, to_unix) for carried_out in engine.accounts.effects),
        store=StoreReport(
            n_bytes=store_bytes,
            capacity_bytes=handoffs["capacity_bytes"],
            files=handoffs["files"],
            owned_bytes=handoffs["n_bytes"],
        ),
        encode_cache=EncodeCacheReport(
            entries=encodes["entries"],
            n_bytes=encodes["n_bytes"],
            hits=encodes["hits"],
            misses=encodes["misses"],
        ),
        host_weights_bytes=dict(engine.fleet.host_bytes),
    )


def _worker(worker: Worker, engine: Engine, to_unix: ToUnix) -> WorkerReport:
    hello = worker.hello
    return WorkerReport(
        id=worker.worker_id,
        device=worker.device,
        device_name=hello.device_name if hello else None,
        node=hello.node if hello else None,
        pid=hello.pid if hello else None,
        threads=hello.threads if hello else None,
        state=worker.state,
        since_unix_s=to_unix(worker.since_s),
        phase=worker.phase,
        heard_unix_s=to_unix(worker.heard_at_s),
        to_be_killed=worker.condemned,
        restarts=worker.n_exits,
        last_exit=worker.last_exit or None,
        resident=_by_model(worker.resident),
        loading=_by_model(worker.asked | worker.unwarmed),
        failed=_by_model(worker.failed),
        resident_bytes=worker.resident_bytes,
        task=_task(worker.task, worker, engine, to_unix) if worker.task else None,
        joined=tuple(_task(task, worker, engine, to_unix) for task in worker.batch[1:]),
        finishing=tuple(_task(task, worker, engine, to_unix) for task in worker.finishing.values()),
        kernels=tuple(
            KernelReport(op=each.op, path=each.path, reason=each.reason or None, calls=each.calls)
            for each in worker.kernels
        ),
    )


def _by_model(stages: Iterable[StageKey]) -> StagesByModel:
    by_model: dict[str, list[str]] = {}
    for model, stage in sorted(stages):
        by_model.setdefault(model, []).append(stage)
    return {model: tuple(names) for model, names in by_model.items()}


def _task(task: Task, worker: Worker, engine: Engine, to_unix: ToUnix) -> TaskReport:
    job = None if task.job_id is None else engine.book.job(task.job_id)
    stage = task.pending[0] if task.pending else None
    model = engine.planner.models.get(task.model)
    in_loop = model is not None and stage == model.loop_stage
    return TaskReport(
        id=task.task_id,
        model=task.model,
        stages=task.stages,
        stage=stage,
        step=task.steps_done if in_loop else None,
        steps=task.steps,
        job=task.job_id,
        request=job.request_id if job else None,
        since_unix_s=to_unix(task.sent_s),
        moved_unix_s=to_unix(task.moved_at_s),
        pausing=task.pausing,
        batch=len(worker.batch) if task in worker.batch else 1,
        degree=1,
    )


def _queue(book: JobBook, now_s: float) -> QueueReport:
    waiting = sorted(
        (job for job in book if job.task_id is None and job.pending), key=lambda job: precedence(job.view())
    )
    counts = book.statistics()
    return QueueReport(
        total=len(waiting),
        first=tuple(_waiting(job, now_s) for job in waiting[:MAX_WAITING_SHOWN]),
        jobs_by_state={state: counts[f"jobs_{state}"] for state in State if not state.is_terminal},
    )


def _waiting(job: Job, now_s: float) -> WaitingReport:
    return WaitingReport(
        job=job.job_id,
        request=job.request_id,
        model=job.model,
        stage=job.pending[0],
        state=job.state,
        priority=job.priority,
        age_s=round(now_s - job.arrived_s, 3),
        slack_s=round(job.deadline_s - now_s, 3),
        held_s=round(max(0.0, job.hold_until_s - now_s), 3),
        step=job.steps_done,
        steps=job.steps,
        degraded=job.exactness is Exactness.APPROXIMATE,
    )


def _planner(planner: Planner) -> PlannerReport:
    now = planner.expected()
    return PlannerReport(
        policy=planner.config.policy,
        parts=tuple(part.name for part in fields(Parts) if getattr(planner.config.parts, part.name)),
        arrivals=tuple(
            ArrivalsReport(
                model=kind.model,
                size=f"{kind.shape.width_px}x{kind.shape.height_px}",
                frames=kind.shape.frames,
                steps=kind.steps,
                per_s=round(per_s, 6),
            )
            for kind, per_s in (sorted(now.arrivals.items()) if now else ())
        ),
        demand=_demand(now.demand_s) if now else (),
        rate=now.rate if now else None,
    )


def _demand(demand_s: Mapping[StageKey, float]) -> tuple[DemandReport, ...]:
    return tuple(
        DemandReport(model=model, stage=stage, gpu_seconds_per_s=round(seconds, 6))
        for (model, stage), seconds in sorted(demand_s.items())
    )


def _placement(placement: Placement, models: Mapping[str, ModelView], to_unix: ToUnix) -> PlacementReport:
    return PlacementReport(
        workers={
            worker: PlacedReport(
                stages=_by_model(held),
                parts={name: has for name, view in models.items() if (has := letters(view, held))},
                replica={name: kind for name, view in models.items() if (kind := replica_type(view, held))},
                since_unix_s=to_unix(placement.since_s.get(worker, placement.changed_s)),
            )
            for worker, held in placement.stages.items()
        },
        since_unix_s=to_unix(placement.changed_s),
        reason=placement.reason,
        detail=placement.detail,
        rate=placement.rate,
        forecast=_demand(placement.demand_s),
        homeless=_by_model(placement.homeless),
    )


def _effect(carried_out: CarriedOut, to_unix: ToUnix) -> EffectReport:
    return EffectReport(
        effect=carried_out.effect,
        at_unix_s=to_unix(carried_out.at_s),
        worker=carried_out.worker,
        model=carried_out.model,
        stages=carried_out.stages,
        jobs=carried_out.jobs,
        degree=carried_out.degree,
        reason=carried_out.reason,
        detail=carried_out.detail,
    )
