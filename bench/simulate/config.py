"""What a simulated fleet is set to, and how a policy fails it."""

from __future__ import annotations

from dataclasses import dataclass


class EffectRefused(Exception):
    """A policy asked for what cannot be done with what it was shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """`n_gpus` in nodes of `gpus_per_node`. `warm`: every worker begins with everything resident, else the
    fleet has `lead_s` before second 0 to load.

    `drop_if_late`: jobs are not to be finished late. `noise`: the standard deviation of the logarithm of a
    stage's seconds; `mean_life_s`: of a worker, None if none fails; it is back `restart_s` later, empty.
    Steps of a loop are told when the first was made and then at most every `progress_s`: each is a new view.
    """

    n_gpus: int = 128
    gpus_per_node: int = 8
    warm: bool = True
    lead_s: float = 60.0
    drop_if_late: bool = False
    noise: float = 0.0
    mean_life_s: float | None = None
    restart_s: float = 10.0
    progress_s: float = 1.0
    seed: int = 0

    @property
    def starts_s(self) -> float:
        """When the clock starts; arrivals count from 0."""
        return 0.0 if self.warm else -self.lead_s
