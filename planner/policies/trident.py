"""TridentServe: stages placed by the types of requests, dispatched by an integer program every half a second.

- *Orchestrator* (`planner.policies.virtual_replicas`): planned for an even mix of what is expected, then for
  what came lately and is open. Every `min_dwell_s` it is looked at whether the fastest part runs 1.5 times as
  fast as the slowest; then it is planned anew.
- *Dispatcher* (`planner.policies.trident_choice`): D for requests whose primaries are idle, at most every
  half a second; at once if nothing was dispatched for so long. E is merged onto the primary if that holds it,
  else it runs before D on the E auxiliary that is free first; C stays on the first of the group if that holds
  it, else it goes to the C auxiliary that is free first. A request that primaries with E have no room for may
  have its E on an auxiliary too, and then its D wherever there is room.
- *Adjust on dispatch*: a new plan is metadata. A worker loads what it is to hold when a request waits for it
  that nobody idle can serve; only one that has nothing at all loads at once.

No preemption, no admission, no reservation; nothing is dropped. Source: TridentServe (arXiv 2510.02838).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from planner.policies.even_mix import Work, even_mix, work_of
from planner.policies.floor import Floor, Group
from planner.policies.held import evicted, held, loaded, noted
from planner.policies.trident_choice import Dispatcher
from planner.policies.virtual_replicas import IMBALANCE, Plan, imbalance, optimal_type, planned, usual_worker
from planner.state import PlannerState
from planner.types import Effect, Evict, Expected, JobView, Load, Observation, Reason, Run, Shape, WakeAt

EVERY_S = 0.5
"""How often the integer program is solved."""

_ROUNDING_S = 1e-9

Mix = Sequence[tuple[Work, float]]


@dataclass(frozen=True, slots=True)
class Trident:
    """What it remembers: the plan, when it was last looked at, and when the program was last solved."""

    plan: Plan
    looked_s: float
    solved_s: float


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """Runs with the evictions that make room for them, then loads, then when to solve again."""
    state = noted(state, observation)
    if not observation.workers:
        return state, ()
    own, reason = _planned(state, observation)
    state = held(state, observation, own.plan.targets, reason)
    now_s = observation.now_s
    turn = _Turn(state, observation)
    turn.serve_decodes()
    turn.serve_encodes(overflow=False)
    is_due = now_s >= own.solved_s + EVERY_S - _ROUNDING_S
    if is_due and turn.waiting and not turn.floor.is_empty:
        turn.solve()
        turn.serve_encodes(overflow=True)
        own = replace(own, solved_s=now_s)
    effects: list[Effect] = [*turn.with_room(), *turn.loads(starting_only=not is_due)]
    if turn.waiting:
        at_s = own.solved_s + EVERY_S
        if at_s <= now_s + _ROUNDING_S:
            at_s = now_s + EVERY_S
        effects.append(WakeAt(at_s=at_s, reason=Reason.WAITING_JOBS))
    return replace(state, rival=own), tuple(effects)


def _planned(state: PlannerState, observation: Observation) -> tuple[Trident, Reason]:
    own, now_s = state.rival, observation.now_s
    if not isinstance(own, Trident):
        plan = planned(observation, state.profile, _expected(state, observation), None)
        return Trident(plan, now_s, now_s - EVERY_S), Reason.INITIAL_PLACEMENT
    is_for = own.plan.is_for(observation)
    if is_for and (usual_worker(observation)[1] is None or now_s < own.looked_s + state.config.min_dwell_s):
        return own, Reason.MIX_SHIFTED
    own = replace(own, looked_s=now_s)
    mix = _asked(state, observation)
    if is_for and (not mix or imbalance(own.plan, mix, observation, state.profile) < IMBALANCE):
        return own, Reason.MIX_SHIFTED
    plan = planned(observation, state.profile, mix or _expected(state, observation), own.plan)
    return replace(own, plan=plan), Reason.MIX_SHIFTED if is_for else Reason.WORKER_REPLACED


def _expected(state: PlannerState, observation: Observation) -> Mix:
    return [(work, 1.0) for work in even_mix(state.config, state.profile, observation)]


def _asked(state: PlannerState, observation: Observation) -> Mix:
    """What came lately and what is open, a second: a type without workers would keep what is open for ever.

    Kinds of unknown cost are left out.
    """
    rates: dict[Expected, float] = {}
    for arriving, rate in sorted(state.forecast.rates(observation.now_s).items()):
        kind = Expected(arriving.model, arriving.shape, arriving.steps)
        rates[kind] = rates.get(kind, 0.0) + rate
    for job in observation.jobs:
        kind = Expected(job.model, job.shape, job.steps)
        rates[kind] = rates.get(kind, 0.0) + 1 / state.config.horizon_s
    ordered = sorted(rates, key=lambda kind: (kind.model, kind.shape, kind.steps))
    works = (
        (work_of(kind, observation, state.profile), rates[kind])
        for kind in ordered
        if kind.model in observation.models
    )
    return [(work, rate) for work, rate in works if work is not None]


class _Turn:
    """One decision. `waiting`: the jobs that have got nothing, by arrival; `runs`: what is to start."""

    def __init__(self, state: PlannerState, observation: Observation) -> None:
        self._profile = state.profile
        self._observation = observation
        self._floor: Floor | None = None
        assert state.placement is not None
        self._placement = state.placement
        self._sets = set(state.placement.stages.values())
        models = observation.models
        self.waiting = sorted(
            [job for job in observation.jobs if not job.running and job.pending and job.model in models],
            key=attrgetter("arrived_s", "job_id"),
        )
        self.runs: list[Run] = []
        self._types: dict[tuple[str, Shape], int | None] = {}

    @property
    def floor(self) -> Floor:
        """The idle workers; most decisions come before the next turn, and ask for none."""
        if self._floor is None:
            self._floor = Floor(self._placement.stages, self._observation)
        return self._floor

    def solve(self) -> None:
        """D for whoever the program chooses."""
        models = self._observation.models
        ahead = [job for job in self.waiting if models[job.model].loop_stage in job.pending]
        dispatcher = Dispatcher(self.floor, self._observation, self._profile)
        for one in dispatcher.chosen(ahead):
            self._run(one.job, one.stages, one.workers)
        self._forget_started()

    def serve_decodes(self) -> None:
        """C of those whose D is over, on auxiliaries, or wherever there are none."""
        for job in self.waiting:
            view = self._observation.models[job.model]
            if view.loop_stage not in job.pending and not self._on_auxiliary(job, job.pending):
                self._elsewhere(job, job.pending)
        self._forget_started()

    def serve_encodes(self, *, overflow: bool) -> None:
        """E of requests whose primaries do not hold it; with `overflow` of all that still wait for it."""
        if len(self._sets) == 1:
            return
        for job in self.waiting:
            view = self._observation.models[job.model]
            loop = job.pending.index(view.loop_stage) if view.loop_stage in job.pending else 0
            if loop and (overflow or self._is_apart(job, job.pending[: loop + 1])):
                self._on_auxiliary(job, job.pending[:loop])
        self._forget_started()

    def with_room(self) -> list[Evict | Run]:
        """The runs, each behind evictions of what its workers are not to hold, where memory has a bound."""
        made: list[Evict | Run] = []
        if not self.runs:
            return made
        views = {worker.worker_id: worker for worker in self._observation.workers}
        for run in self.runs:
            for name in run.workers:
                view = views[name]
                spare = view.resident - self._placement.stages[name]
                if view.memory_bytes is not None and spare:
                    made += evicted(view, spare, self._observation.models, self._placement)
            made.append(run)
        return made

    def loads(self, *, starting_only: bool) -> list[Load | Evict]:
        """What waits for it and is idle nowhere; everything on workers that have nothing."""
        targets = self._placement.stages
        poor = [w for w in self._observation.workers if not targets[w.worker_id] <= w.resident]
        if not poor:
            return []
        taken = {name for run in self.runs for name in run.workers}
        needed = {(job.model, stage) for job in self.waiting for stage in job.pending}
        n_wanted = len(self.waiting)
        made: list[Load | Evict] = []
        for worker in sorted(poor, key=lambda worker: worker.worker_id):
            target = targets[worker.worker_id]
            if worker.worker_id in taken or worker.task is not None:
                continue
            missing = target - worker.resident - worker.loading - worker.failed
            is_starting = not worker.resident
            if not missing or not (is_starting or (not starting_only and missing & needed and n_wanted > 0)):
                continue
            n_wanted -= 0 if is_starting else 1
            if worker.memory_bytes is not None:
                spare = worker.resident - target
                made += evicted(worker, spare, self._observation.models, self._placement)
            made += loaded(worker, missing, self._observation.models, self._placement)
        return made

    def _is_apart(self, job: JobView, stages: tuple[str, ...]) -> bool:
        """Whether its E is not for its primaries: by its type, or since no worker is to hold both."""
        needed = {(job.model, stage) for stage in stages}
        return self._type(job) in (1, 3) or not any(needed <= held for held in self._sets)

    def _type(self, job: JobView) -> int | None:
        view = self._observation.models[job.model]
        key = (job.model, job.shape)
        if key not in self._types:
            room = usual_worker(self._observation)
            self._types[key] = optimal_type(view, job.shape, self._profile, *room)
        return self._types[key]

    def _on_auxiliary(self, job: JobView, stages: tuple[str, ...]) -> bool:
        view = self._observation.models[job.model]
        loop = (job.model, view.loop_stage)
        return self._start(job, stages, [g for g in self.floor.groups if loop not in g.usable])

    def _elsewhere(self, job: JobView, stages: tuple[str, ...]) -> bool:
        """On a primary, where the plan has no auxiliary for it."""
        needed = {(job.model, stage) for stage in stages}
        view = self._observation.models[job.model]
        loop = (job.model, view.loop_stage)
        if any(needed <= of_role and loop not in of_role for of_role in self._sets):
            return False
        return self._start(job, stages, self.floor.groups)

    def _start(self, job: JobView, stages: tuple[str, ...], groups: Sequence[Group]) -> bool:
        needed = {(job.model, stage) for stage in stages}
        for group in groups:
            node = group.node_for(1, job.node) if needed <= group.usable else None
            if node is not None:
                self._run(job, stages, group.take(node, 1))
                return True
        return False

    def _run(self, job: JobView, stages: tuple[str, ...], workers: tuple[str, ...]) -> None:
        self.runs.append(
            Run(
                stages=stages,
                jobs=(job.job_id,),
                workers=workers,
                degree=len(workers),
                reason=Reason.MOST_REWARD,
            )
        )

    def _forget_started(self) -> None:
        started = {name for run in self.runs for name in run.jobs}
        if started:
            self.waiting = [job for job in self.waiting if job.job_id not in started]
