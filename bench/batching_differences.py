"""How far what a job makes in a batch is from what it makes alone, by family, in float32.

The tiny random models of the tests and the embedded model; three jobs of other prompts, seeds and guidance.
What their text encoders make together, and the latents behind their loops, in lockstep and joining one step
apart; those begin with encodes that were made alone. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    """One job, up to behind its loop. `shared`: whether it shared a call with another.

    `encoded`: the numbers of what its encode stages made, one behind the other.
    """

    resident: ResidentModel
    generation: Generation
    run: StageRun = field(init=False)
    encoded: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        self.run = StageRun(self.resident, self.generation)

    def encode(self, lane: Seat | None = None) -> None:
        graph = self.resident.graphs["text"]
        if lane is not None:
            self.run.divert(lane.through)
        stages = graph.names[: graph.names.index(graph.loop_stage)]
        for stage in stages:
            self.run.run(stage)
        self.encoded = torch.cat(list(_numbers(self.run.payload(stages[-1]).values)))
        self.shared = lane is not None and lane.shared

    def loop(self, lane: Seat | None = None) -> None:
        stage = self.resident.graphs["text"].loop_stage
        if lane is not None:
            self.run.divert(lane.through)
        self.run.run(stage)
        self.latents = self.run.payload(stage).values["latents"].float()
        self.shared = lane is not None and lane.shared


def _numbers(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of numbers within `value`, each as one row."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value.float().flatten()
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)


def differences(families: dict[str, Callable[[Path], Model]], folder: Path) -> list[dict[str, Any]]:
    """One row per family, the models made in `folder`. Raises `Refused` if a call was not shared."""
    return [_row(name, make(folder / name)) for name, make in families.items()]


def _row(name: str, model: Model) -> dict[str, Any]:
    resident = ResidentModel(name, model, torch.device("cpu"))
    resident.load(resident.stage_names)
    alone = _jobs(resident)
    for job in alone:
        job.encode()
        job.loop()
    row: dict[str, Any] = {"family": name, "shape": list(_latents(alone[0]).shape)}
    for way, entered_at in (("encode", LOCKSTEP), ("lockstep", LOCKSTEP), ("joining", JOINING)):
        together = _jobs(resident)
        if way == "encode":
            made = _encoded
            _run_together([job.encode for job in together], entered_at)
        else:
            made = _latents
            for job in together:
                job.encode()
            _run_together([job.loop for job in together], entered_at)
        if not all(job.shared for job in together):
            raise Refused(f"{name}: not all jobs shared calls ({way})")
        pairs = [(made(ours), made(theirs)) for ours, theirs in zip(together, alone, strict=True)]
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


def _run_together(jobs: list[Callable[[Seat], None]], entered_at: tuple[int, ...]) -> None:
    batch, n_rounds = Batch(torch.device("cpu")), 0
    while n_rounds <= max(entered_at) or not batch.is_over:
        for at, job in zip(entered_at, jobs, strict=True):
            if at == n_rounds:
                batch.enter(job)
        batch.round()
        n_rounds += 1


def _encoded(job: _Job) -> torch.Tensor:
    assert job.encoded is not None, "the job has not run"
    return job.encoded


def _latents(job: _Job) -> torch.Tensor:
    assert job.latents is not None, "the job has not run"
    return job.latents
