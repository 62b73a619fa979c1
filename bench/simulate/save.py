"""Records a simulation as the gateway's journal would tell it, and who held what over time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.simulate.fleet import Fleet
from bench.simulate.parts import Job, Span
from planner.types import Effect, Evict, Load, ModelView, Run, StageKey

_OUTCOMES = {"done": "done", "rejected": "rejected", "dropped": "rejected"}
"""The journal's word for how a job ended; any other end is a failure."""


class Recorder:
    """`lines` are the journal's, in the order of their events; `holdings` (second, stages -> workers).

    Of a gang's loop the first member's line names the job, each other's the job and its worker: one job is
    handed from worker to worker, not to itself.
    """

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.holdings: list[tuple[float, Mapping[frozenset[StageKey], int]]] = []
        self._fleet: Fleet | None = None
        self._models: Mapping[str, ModelView] = {}

    def watch(self, fleet: Fleet) -> None:
        """Once, before the simulation."""
        self._fleet = fleet
        self._models = fleet.costs.views
        fleet.accounts.on_span = self._span
        fleet.book.on_end = self._end
        fleet.workers.on_residency = self._held
        self.lines += [
            {"event": "worker", "worker": worker, "state": "up", "reason": ""}
            for worker in fleet.workers.live
        ]
        self._held()

    def effect(self, at_s: float, effect: Effect) -> None:
        match effect:
            case Run():
                told: dict[str, Any] = {"effect": "run", "worker": effect.workers[0], "job": effect.jobs[0]}
            case Load() | Evict():
                told = {"effect": type(effect).__name__.lower(), "worker": effect.worker, "job": None}
                told["model"] = effect.model
            case _:
                return
        told |= {"stages": list(effect.stages), "reason": effect.reason.value, "detail": effect.detail}
        self.lines.append({"event": "effect", "at_s": at_s, **told})

    def write(self, file: Path) -> None:
        """JSON lines that `bench.journal` reads. Raises `OSError`."""
        file.write_text(
            "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self.lines), "utf-8"
        )

    def _span(self, span: Span) -> None:
        view = self._models[span.model]
        place = view.stages.index(span.stage)
        loop = view.stages.index(view.loop_stage)
        job = span.job if span.is_first else f"{span.job}@{span.worker}"
        self.lines.append(
            {
                "event": "stage",
                "worker": span.worker,
                "job": job,
                "request": span.job,
                "model": span.model,
                "stage": span.stage,
                "kind": "encode" if place < loop else "diffuse" if place == loop else "decode",
                "started_at_s": span.began_s,
                "ended_at_s": span.ended_s,
                "overhead_s": 0.0,
                "steps": span.steps,
                "from_step": span.from_step,
            }
        )

    def _end(self, job: Job) -> None:
        assert self._fleet is not None
        now_s, view = self._fleet.clock.now_s, job.view
        self.lines.append(
            {
                "event": "request",
                "request": view.job_id,
                "model": view.model,
                "outcome": _OUTCOMES.get(job.outcome.value, "failed"),
                "times_s": {"total": now_s - view.arrived_s},
                "deadline_s": view.deadline_s - view.arrived_s,
                "deadline_met": job.is_on_time,
                "at_s": now_s,
            }
        )

    def _held(self) -> None:
        assert self._fleet is not None
        self.holdings.append((self._fleet.clock.now_s, self._fleet.workers.residents()))
