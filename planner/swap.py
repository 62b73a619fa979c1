"""Load or wait: what one worker takes on because a job waits for it now.

Two cases, one worker at a time:

- A stage that no worker is to hold, because memory cannot hold one of everything. A worker takes it on, with
  as much of what else the job needs as fits, and gives up what it has no room for. It does so only for a job
  that is more urgent than all that wait for what nobody would hold then.
- A stage whose workers are all busy, while a worker with room for it is idle. That loads it if the load is
  over clearly before the last job's turn would come.

Never back and forth: a worker that changed keeps what it has for the load's time and `min_dwell_s`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from planner.deadline import URGENCY
from planner.forecast import Forecast
from planner.ground import Ground, ground_of, seconds_to_load
from planner.outlook import Outlook
from planner.parts import letters, parts_of
from planner.placement import Placement
from planner.profile import Profile
from planner.rooms import Room, Sizes, filled
from planner.types import JobView, Observation, PlannerConfig, Reason, StageKey, WorkerView

CLEARLY = 1.25
"""How many loads' time a job must have to wait for one to be worth it: neither is known exactly."""

Precedence = tuple[float, int, float, str]


def swapped(
    before: Placement, forecast: Forecast, profile: Profile, observation: Observation, config: PlannerConfig
) -> tuple[Placement | None, float | None]:
    """The placement with one worker changed, if one is to be; else when only a dwell is missing for that."""
    if not before.homeless and len(set(before.stages.values())) <= 1:
        return None, None
    waiting = _waiting(observation)
    homeless = [(key, jobs[0]) for key, jobs in waiting.items() if key in before.homeless - before.impossible]
    busy = _only_busy(waiting, before, observation)
    if not homeless and not busy:
        return None, None
    settled_s = {
        worker.worker_id: before.since_s[worker.worker_id] + config.min_dwell_s
        for worker in observation.workers
    }
    free = [worker for worker in observation.workers if settled_s[worker.worker_id] <= observation.now_s]
    if not free:
        return None, min(settled_s.values()) if homeless else None
    if homeless:
        ground = ground_of(forecast, profile, observation, config)
        for key, job in sorted(homeless, key=lambda item: _precedence(item[1])):
            if (placement := _taken_on(key, job, free, waiting, before, ground)) is not None:
                return placement, None
    sizes = Sizes(profile, observation.models, forecast.largest)
    for key in busy:
        if (placement := _added(key, waiting[key], free, before, observation, sizes, profile)) is not None:
            return placement, None
    later_s = [at_s for at_s in settled_s.values() if at_s > observation.now_s]
    return None, min(later_s) if homeless and later_s else None


def _precedence(job: JobView) -> Precedence:
    return job.deadline_s, URGENCY[job.priority], job.arrived_s, job.job_id


def _waiting(observation: Observation) -> dict[StageKey, list[JobView]]:
    """The jobs that wait for each stage, the most urgent first."""
    waiting: dict[StageKey, list[JobView]] = {}
    for job in observation.jobs:
        if not job.running and job.pending:
            waiting.setdefault((job.model, job.pending[0]), []).append(job)
    for jobs in waiting.values():
        jobs.sort(key=_precedence)
    return waiting


def _only_busy(
    waiting: Mapping[StageKey, list[JobView]], before: Placement, observation: Observation
) -> list[StageKey]:
    """Stages that wait, whose homes all have them and are all busy, while a worker has nothing to do."""
    idle = [worker for worker in observation.workers if worker.task is None and not worker.is_held_up]
    if not any(waiting.keys().isdisjoint(worker.resident) for worker in idle):
        return []
    soon: set[StageKey] = set()
    for worker in observation.workers:
        held = before.stages[worker.worker_id]
        soon |= held if worker.task is None else held - worker.resident
    return sorted(waiting.keys() - before.homeless - soon)


def _taken_on(
    key: StageKey,
    job: JobView,
    free: Iterable[WorkerView],
    waiting: Mapping[StageKey, list[JobView]],
    before: Placement,
    ground: Ground,
) -> Placement | None:
    """`key`, which has no home, on the worker where that costs least."""
    choices = []
    rooms = {worker.worker_id: room for room in ground.problem.rooms for worker in room.workers}
    n_holders = Counter(key for held in before.stages.values() for key in held)
    for worker in free:
        taken = _with(ground, rooms[worker.worker_id], before.stages[worker.worker_id], key, job)
        if taken is None:
            continue
        gone = ground.mask(before.stages[worker.worker_id]) & ~taken
        lost = frozenset(key for key in ground.keys(gone) if n_holders[key] == 1)
        needs = [_precedence(other) for jobs in waiting.values() for other in jobs if _needs(other, lost)]
        if needs and min(needs) < _precedence(job):
            continue
        missing = ground.keys(taken) - worker.resident - worker.loading
        busy = worker.task is not None or worker.is_held_up
        choices.append((busy, len(needs), ground.load_s(missing), worker.worker_id, taken))
    if not choices:
        return None
    _, _, load_s, name, taken = min(choices)
    text = f"{job.job_id} waits for {key[1]} of {key[0]}"
    return _changed(before, name, ground.keys(taken), load_s, ground.observation, text)


def _with(ground: Ground, room: Room, held: frozenset[StageKey], key: StageKey, job: JobView) -> int | None:
    """The set with `key`, with what else the job needs, then with what was there, as far as it fits."""
    parts = ground.problem.parts
    (wanted,) = (i for i, part in enumerate(parts) if key in part.keys)
    if not room.fits(1 << wanted):
        return None
    order = [
        *(
            i
            for i, part in enumerate(parts)
            if part.model == job.model and set(part.stages) & set(job.pending)
        ),
        *(i for i, part in enumerate(parts) if part.keys <= held),
    ]
    return filled(room, 1 << wanted, order)


def _needs(job: JobView, lost: frozenset[StageKey]) -> bool:
    return any((job.model, stage) in lost for stage in job.pending)


def _added(
    key: StageKey,
    jobs: list[JobView],
    free: Iterable[WorkerView],
    before: Placement,
    observation: Observation,
    sizes: Sizes,
    profile: Profile,
) -> Placement | None:
    """`key` beside what an idle worker holds, if the last job would wait clearly longer than the load."""
    view = observation.models.get(key[0])
    if view is None or key[1] not in view.load_s:
        return None
    waits_s = _longest_wait_s(key, jobs, before, observation, profile)
    if waits_s <= CLEARLY * view.load_s[key[1]]:
        return None
    (wanted,) = (part.keys for part in parts_of([view]) if key in part.keys)
    for worker in sorted(free, key=lambda worker: worker.worker_id):
        if worker.task is not None or worker.is_held_up or key in worker.resident | worker.failed:
            continue
        held = before.stages[worker.worker_id] | wanted
        load_s = seconds_to_load(observation.models, held - worker.resident)
        if waits_s > CLEARLY * load_s and sizes.fits(held, worker):
            text = (
                f"{jobs[-1].job_id} would wait {waits_s:.1f} s for {key[1]} of {key[0]}, "
                f"a load takes {load_s:.1f} s"
            )
            return _changed(before, worker.worker_id, held, load_s, observation, text)
    return None


def _longest_wait_s(
    key: StageKey, jobs: list[JobView], before: Placement, observation: Observation, profile: Profile
) -> float:
    """Until the last of `jobs` has its turn on the workers that are to hold `key`; 0 if that is not known."""
    outlook = Outlook(profile, observation.models, observation.now_s)
    free_s = []
    device = ""
    for worker in observation.workers:
        if key not in before.stages[worker.worker_id]:
            continue
        device = worker.device
        progress = outlook.progress(worker.task, worker.device) if worker.task else None
        if worker.task is not None and progress is None:
            return 0.0
        free_s.append(progress.ends_s if progress else observation.now_s)
    if not free_s:
        return 0.0
    heapq.heapify(free_s)
    view, turn_s = observation.models[key[0]], observation.now_s
    for job in jobs:
        turn_s = heapq.heappop(free_s)
        seconds = profile.stage_s(device, view, key[1], job.shape, job.steps - job.steps_done)
        if seconds is None:
            return 0.0
        heapq.heappush(free_s, turn_s + seconds)
    return turn_s - observation.now_s


def _changed(
    before: Placement,
    name: str,
    held: frozenset[StageKey],
    load_s: float,
    observation: Observation,
    text: str,
) -> Placement:
    now_s = observation.now_s
    stages = {**before.stages, name: held}
    placed = frozenset().union(*set(stages.values()))
    every = frozenset((view.model, stage) for view in observation.models.values() for stage in view.stages)
    has = "; ".join(
        f"{model}: {letters(view, stages[name]) or 'nothing'}"
        for model, view in sorted(observation.models.items())
    )
    return replace(
        before,
        stages=stages,
        since_s={**before.since_s, name: now_s + load_s},
        changed_s=now_s,
        reason=Reason.NEEDED_NOW,
        detail=f"{text}: {name} holds {has}",
        homeless=every - placed,
    )
