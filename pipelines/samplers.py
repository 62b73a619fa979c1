"""The samplers that a catalogue entry may name instead of the model's own. One literal table.

A scheduler that is made for networks of another kind often runs without an error and returns noise: SD3 and
Wan do so with the epsilon style of LCM and Euler ancestral. So what a sampler expects the network to predict
is part of the table, and is compared before anything is loaded.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduler class of diffusers, with what is set in its config on top of the model's own.

    `max_steps`: the most that it can make, where there is such a bound.
    """

    scheduler: str
    expects: Literal["flow", "noise", "v"]
    config: dict[str, Any] = {}
    max_steps: int | None = None


SAMPLERS: dict[str, Sampler] = {
    "flow-euler": Sampler(scheduler="FlowMatchEulerDiscreteScheduler", expects="flow"),
    "flow-lcm": Sampler(scheduler="FlowMatchLCMScheduler", expects="flow"),
    "unipc-flow": Sampler(
        scheduler="UniPCMultistepScheduler",
        expects="flow",
        config={"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    ),
    "dpm++-flow": Sampler(
        scheduler="DPMSolverMultistepScheduler",
        expects="flow",
        config={"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    ),
    "euler": Sampler(scheduler="EulerDiscreteScheduler", expects="noise"),
    "euler-a": Sampler(scheduler="EulerAncestralDiscreteScheduler", expects="noise"),
    "unipc": Sampler(scheduler="UniPCMultistepScheduler", expects="noise"),
    "dpm++": Sampler(scheduler="DPMSolverMultistepScheduler", expects="noise"),
    "dpm++-sde": Sampler(
        scheduler="DPMSolverMultistepScheduler",
        expects="noise",
        config={"algorithm_type": "sde-dpmsolver++"},
    ),
    "lcm": Sampler(scheduler="LCMScheduler", expects="noise", max_steps=50),
    "cogvideox-ddim": Sampler(scheduler="CogVideoXDDIMScheduler", expects="v"),
    "cogvideox-dpm": Sampler(scheduler="CogVideoXDPMScheduler", expects="v"),
}
