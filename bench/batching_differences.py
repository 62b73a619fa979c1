"""How far the latents of a job in a batch are from those of the job alone, by family, in float32.

The tiny random models of the tests and the embedded model; three jobs of other prompts, seeds and guidance,
in lockstep and joining one step apart. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.batching import Refused
from pipelines.catalogue import Model
from wire.generation import Generation
from worker.batch import Batch, Seat
from worker.resident import ResidentModel
from worker.stages import StageRun

LOCKSTEP, JOINING = (0, 0, 0), (0, 2, 4)
"""Before which round of calls each job enters."""

_STEPS = 4
_JOBS = (("a cat", 11, 3.5), ("two small dogs", 12, 2.0), ("a tree", 13, 5.0))
_MAX_RELATIVE = 1e-3  # more is no rounding


@dataclass
class _Job:
    """One job, up to behind its loop. `calls` counts those that it shared."""

    resident: ResidentModel
    generation: Generation
    latents: torch.Tensor | None = None
    shared: bool = False

    def run(self, lane: Seat | None = None) -> None:
        graph = self.resident.graphs["text"]
        run = StageRun(self.resident, self.generation)
        if lane is not None:
            run.divert(lane.through)
        for stage in graph.names[: graph.names.index(graph.loop_stage) + 1]:
            run.run(stage)
        self.latents = run.payload(graph.loop_stage).values["latents"].float()
        self.shared = lane is not None and lane.shared


def differences(families: dict[str, Callable[[Path], Model]], folder: Path) -> list[dict[str, Any]]:
    """One row per family, the models made in `folder`. Raises `Refused` if a call was not shared."""
    return [_row(name, make(folder / name)) for name, make in families.items()]


def _row(name: str, model: Model) -> dict[str, Any]:
    resident = ResidentModel(name, model, torch.device("cpu"))
    resident.load(resident.stage_names)
    alone = _jobs(resident)
    for job in alone:
        job.run()
    row: dict[str, Any] = {"family": name, "shape": list(_latents(alone[0]).shape)}
    for way, entered_at in (("lockstep", LOCKSTEP), ("joining", JOINING)):
        together = _jobs(resident)
        _run_together(together, entered_at)
        if not all(job.shared for job in together):
            raise Refused(f"{name}: not all jobs shared calls ({way})")
        pairs = [(_latents(ours), _latents(theirs)) for ours, theirs in zip(together, alone, strict=True)]
        relative = max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
        if relative > _MAX_RELATIVE:
            raise Refused(f"{name}: {relative:.1e} from solo ({way})")
        row[way] = {
            "max_abs": max(float((ours - theirs).abs().max()) for ours, theirs in pairs),
            "relative": relative,
        }
    row["largest_latent"] = max(float(_latents(job).abs().max()) for job in alone)
    return row


def _jobs(resident: ResidentModel) -> list[_Job]:
    model = resident.model
    width_px, height_px = model.default_size_px
    return [
        _Job(
            resident,
            Generation(
                prompt=prompt,
                width_px=width_px,
                height_px=height_px,
                num_inference_steps=_STEPS,
                guidance_scale=guidance_scale,
                seed=seed,
                num_frames=model.default_frames,
            ),
        )
        for prompt, seed, guidance_scale in _JOBS
    ]


def _run_together(jobs: list[_Job], entered_at: tuple[int, ...]) -> None:
    batch, n_rounds = Batch(torch.device("cpu")), 0
    while n_rounds <= max(entered_at) or not batch.is_over:
        for at, job in zip(entered_at, jobs, strict=True):
            if at == n_rounds:
                batch.enter(job.run)
        batch.round()
        n_rounds += 1


def _latents(job: _Job) -> torch.Tensor:
    assert job.latents is not None, "the job has not run"
    return job.latents
