"""The guider of one task.

Diffusers 0.42's blocks of Wan, HunyuanVideo 1.5 and LTX fail when guidance is off: their text stages make no
negative embeddings then, and they, or their loops, ask for them all the same. So for such a family a guider
that is off still says, until the loop begins, that it wants two conditions. What that costs is one encode of
the empty prompt.
"""

from __future__ import annotations

from diffusers import ClassifierFreeGuidance
from diffusers.guiders import BaseGuidance

from pipelines.families import Family, is_guided


class UnguidedWithNegative(ClassifierFreeGuidance):  # type: ignore[misc] # diffusers has no types
    """Guidance that is off, with negative embeddings made in vain. The denoiser runs once a step."""

    @property
    def num_conditions(self) -> int:
        return 2 if self._step is None else 1


def task_guider(resident: BaseGuidance, family: Family, guidance_scale: float) -> BaseGuidance:
    """A guider like `resident`, without its state, at the task's scale if the family guides by guiders."""
    if family.guidance != "guider":
        return resident.new()
    if family.needs_negative and not is_guided(family, guidance_scale):
        return UnguidedWithNegative(guidance_scale=1.0)
    # Z-Image's is off unless told otherwise; a scale of 1 is off anyway
    return resident.new(guidance_scale=guidance_scale, enabled=True)
