"""First come, first served, whole pipelines at one fixed degree: what a server without a planner does.

A node's workers are used in gangs of `PlannerConfig.static_degree`, fewer where they do not offer as many.
The first job in the queue gets the next room; nobody overtakes it. Deadlines are not looked at, nothing is
dropped, paused or batched. Source: baseline B1 of TridentServe (arXiv 2510.02838).
"""

from __future__ import annotations

from dataclasses import replace

from planner.board import Board
from planner.placement import Targets
from planner.policies import fair, triptych
from planner.profile import Profile
from planner.state import PlannerState
from planner.types import Effect, JobView, Observation, Parts, Reason, WakeAt


def decide(state: PlannerState, observation: Observation) -> tuple[PlannerState, tuple[Effect, ...]]:
    """As `triptych.decide`, in order of arrival, without placement."""
    config = state.config

    def served(
        targets: Targets, seen: Observation, profile: Profile, parts: Parts
    ) -> tuple[list[Effect], WakeAt | None]:
        return runs(targets, seen, profile, config.static_degree), None

    after, effects = triptych.decide(
        replace(state, config=replace(config, parts=fair.PARTS)), observation, served
    )
    return replace(after, config=config), effects


def runs(targets: Targets, observation: Observation, profile: Profile, degree: int) -> list[Effect]:
    """Tasks for the first jobs of the queue, as far as there is room for them in that order."""
    board = Board.of(targets, observation, profile, fair.PARTS)
    for job in sorted(board.waiting(), key=lambda job: (job.arrived_s, job.job_id)):
        options = board.pool.options(job)
        if not options:
            # no worker has its next stage yet, whose place in the queue then keeps nobody waiting
            continue
        if not any(_start(board, job, place, degree) for place in range(len(options))):
            break
    return [start.run() for start in board.starts]


def _start(board: Board, job: JobView, place: int, degree: int) -> bool:
    option = board.pool.options(job)[place]
    loop = board.loop_of(job, job.pending[: option.n_merged])
    offered = [each for each in option.workers.kind[1] if each <= degree]
    wide = max(offered, default=1) if loop is not None else 1
    node = board.pool.fitting_node(option, wide, job.node, loop)
    if node is None:
        return False
    board.start(job, option, node, 0, wide, Reason.FIRST_COME)
    return True
