"""Whether a model's own scheduler is one that its family runs with.

Diffusers takes any scheduler for any pipeline. One that expects another prediction than the network's runs
without an error and returns noise: SD3 and Wan do so with the epsilon style of LCM and Euler ancestral.
"""

from __future__ import annotations

from typing import Any

from pipelines.catalogue import Model
from pipelines.errors import GraphRefused
from pipelines.samplers import SAMPLERS

# the schedulers that are made for flow matching have no such field in their config
_EXPECTS = {None: "flow", "flow_prediction": "flow", "epsilon": "noise", "v_prediction": "v"}


def check_scheduler(name: str, model: Model, scheduler: Any) -> None:
    """Raises `GraphRefused` naming the scheduler and the family.

    `scheduler`: the model's own, as diffusers loads it. Its class does not matter if the catalogue names
    another sampler, what it expects the network to predict does.
    """
    family, own = model.family_table, type(scheduler).__name__
    kind = scheduler.config.get("prediction_type")
    expects = _EXPECTS.get(kind, kind)
    if expects != family.predicts:
        raise GraphRefused(
            f"{name}: {own} expects networks that predict {expects}, those of {model.family} predict"
            f" {family.predicts}"
        )
    if model.sampler is not None:
        if model.sampler not in family.samplers:
            raise GraphRefused(f"{name}: the sampler {model.sampler} does not run with {model.family}")
        return
    known = sorted({SAMPLERS[sampler].scheduler for sampler in family.samplers})
    if own not in known:
        raise GraphRefused(f"{name}: {own} does not run with {model.family}, which takes {', '.join(known)}")
