"""A made-up model whose costs are easy to add up in one's head."""

from __future__ import annotations

from bench.arrivals import Arrival
from bench.costs import Costs, ModelCosts
from planner.measurements import Measurement, Measurements
from planner.types import ModelView, Shape

SMALL, LARGE = Shape(128, 128), Shape(256, 256)
STAGES = ("encode", "denoise", "decode")

STEP_S = {SMALL: {1: 2.0, 2: 1.25}, LARGE: {1: 8.0, 2: 4.0}}
"""Seconds of a step by degree. Four steps: alone 1 + 8 + 2 and 1 + 32 + 2 seconds on one worker, with encode
and decode."""
REST_S = {"encode": 1.0, "decode": 2.0}
STEPS = 4
WEIGHT_BYTES = {"encode": 4, "denoise": 8, "decode": 2}
LOAD_S = {"encode": 3.0, "denoise": 5.0, "decode": 1.0}
PEAK_BYTES = {SMALL: 1, LARGE: 6}
"""Of every stage; a loop's is divided by its degree."""


def small_costs(
    *, model: str = "small", batches: bool = False, memory_bytes: int | None = None, checkpoint_every: int = 2
) -> Costs:
    """`batches`: a loop of two jobs costs half as much again as one of one."""
    measured = [
        Measurement(stage=stage, shape=shape, seconds=seconds, peak_bytes=PEAK_BYTES[shape])
        for shape in STEP_S
        for stage, seconds in REST_S.items()
    ]
    measured += [
        Measurement(
            stage="denoise",
            shape=shape,
            seconds=step_s,
            peak_bytes=PEAK_BYTES[shape] // degree,
            degree=degree,
        )
        for shape, of_shape in STEP_S.items()
        for degree, step_s in of_shape.items()
    ]
    if batches:
        measured += [
            Measurement(stage=stage, shape=shape, seconds=1.5 * seconds, batch=2)
            for shape in STEP_S
            for stage, seconds in {**REST_S, "denoise": STEP_S[shape][1]}.items()
        ]
    measurements = Measurements(
        device="test",
        model=model,
        measured=tuple(measured),
        weight_bytes=WEIGHT_BYTES,
        load_s=LOAD_S,
        resume_s=0.5,
    )
    view = ModelView(model, STAGES, "denoise", WEIGHT_BYTES, LOAD_S)
    return Costs(
        name="small",
        device="test",
        models={model: ModelCosts(view=view, steps=STEPS, mix=(SMALL, LARGE), measurements=measurements)},
        resume_s=0.5,
        handoff_s=0.25,
        memory_bytes=memory_bytes,
        checkpoint_every=checkpoint_every,
    )


def asked(at_s: float, shape: Shape = SMALL, slo_s: float = 100.0, model: str = "small") -> Arrival:
    return Arrival(at_s, model, shape, STEPS, slo_s)
