"""The rival that is hard to beat: whole pipelines with shared weights, any worker serves any request.

Earliest deadline first, each at the smallest degree that still meets it, and what cannot be met is dropped
where its client agreed to that. It is our dispatch with everything else off: no placement, pauses, growth,
batches, reservation or fewer steps. So what they compare is what these give.

Where no worker has the memory for a whole pipeline there is no such server; stages are then placed as ours.
"""

from __future__ import annotations

from dataclasses import replace

from planner.policies import triptych
from planner.state import PlannerState
from planner.types import Effect, Observation, Parts

PARTS = Parts(
    rejects=True,
    degrades=False,
    batches=False,
    joins=False,
    pauses=False,
    grows=False,
    reserves=False,
    places=False,
)


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """As `triptych.decide`, with `PARTS` instead of the configured ones."""
    config = state.config
    after, effects = triptych.decide(replace(state, config=replace(config, parts=PARTS)), observation)
    return replace(after, config=config), effects
