"""The scheduler of a resident model: its own, or the one of the sampler that the catalogue names.

The noise schedule stays the model's. Its shift has one name in schedulers that are made for flow matching and
another in the multi-step solvers.
"""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from pipelines.samplers import SAMPLERS


class _FromPicture:
    """Diffusers' solvers mix a picture with noise in `add_noise`, the flow families ask for `scale_noise`."""

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`sample` [B, ...] at the noise of `timestep` [B]."""
        mixed: torch.Tensor = self.add_noise(sample, noise, timestep)  # type: ignore[attr-defined]
        return mixed


class UniPC(_FromPicture, UniPCMultistepScheduler):  # type: ignore[misc] # diffusers has no types
    """UniPC that a flow family can start from a picture with."""


class DPMSolver(_FromPicture, DPMSolverMultistepScheduler):  # type: ignore[misc]
    """DPM-Solver++ that a flow family can start from a picture with."""


_OURS: dict[str, Any] = {"UniPCMultistepScheduler": UniPC, "DPMSolverMultistepScheduler": DPMSolver}


def scheduler_of(own: Any, sampler: str | None) -> Any:
    """The scheduler to run with, `own` being the model's. `sampler`: a name in `SAMPLERS`, or None."""
    if sampler is None:
        chosen, changes = _OURS.get(type(own).__name__, type(own)), {}
    else:
        name, changes = SAMPLERS[sampler].scheduler, dict(SAMPLERS[sampler].config)
        chosen = _OURS.get(name) or getattr(diffusers, name)
        shift = own.config.get("shift", own.config.get("flow_shift"))
        if shift is not None:
            changes |= {"shift": shift, "flow_shift": shift}
    return own if type(own) is chosen else chosen.from_config(own.config, **changes)
