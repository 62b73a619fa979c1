"""Which workers are silent or stuck. Judges only; the engine kills."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config import GatewayConfig
from gateway.decisions import Planner
from gateway.fleet import Fleet, Worker, WorkerState
from gateway.tasks import Task
from wire.to_gateway import Phase

TIMES_EXPECTED = 5.0
"""A step (or a stage without a loop) that takes this many times what the profile expects is stuck."""


def overdue(
    fleet: Fleet, planner: Planner | None, config: GatewayConfig, now_s: float
) -> Iterator[tuple[Worker, str]]:
    """Workers to be killed, with the reason. One that loads is only held to its heartbeat."""
    for worker in fleet:
        silent_s = now_s - worker.heard_at_s
        if worker.condemned:
            continue
        if worker.state is WorkerState.STARTING and silent_s > config.hello_timeout_s:
            yield worker, f"no Hello in {silent_s:.0f} s"
        elif worker.is_up and silent_s > config.heartbeat_timeout_s:
            yield worker, f"nothing heard in {silent_s:.1f} s"
        elif worker.is_up:
            if worker.task is not None and worker.phase is Phase.LOADING:
                # the task waits behind a load, however slow that is
                worker.task.moved_at_s = now_s
            for task in worker.tasks:
                stuck_s = now_s - task.moved_at_s
                if stuck_s > _bound_s(task, planner, config):
                    where = "+".join(task.pending) or "encoding its picture"
                    yield worker, f"no progress in {where} for {stuck_s:.1f} s"
                    break


def _bound_s(task: Task, planner: Planner | None, config: GatewayConfig) -> float:
    """Seconds between two signs of progress. A shape that never ran may take as long as a warm-up."""
    if task.is_warm_up or planner is None:
        return config.warm_up_timeout_s
    if not task.pending:
        # many pictures may be in line for the one thread that encodes them
        return TIMES_EXPECTED * config.stall_timeout_s
    expected_s = planner.measured_s(task.pending[0], task.shape)
    if expected_s is None:
        return config.warm_up_timeout_s
    return max(config.stall_timeout_s, TIMES_EXPECTED * expected_s)
