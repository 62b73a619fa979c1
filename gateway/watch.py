"""Which workers are silent or stuck. Judges only; the engine kills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.config import GatewayConfig
from gateway.decisions import Planner
from gateway.fleet import Fleet, Worker, WorkerState
from gateway.tasks import Task
from wire.to_gateway import Phase

TIMES_EXPECTED = 5.0
"""A step (or a stage without a loop) that takes this many times what the profile expects is stuck."""

TIMES_GUESSED = 20.0
"""The same for a shape that never ran, whose time is scaled by its pixels from another: attention grows with
their square, and a first run may have kernels to compile."""


def overdue(
    fleet: Fleet, planner: Planner | None, config: GatewayConfig, now_s: float
) -> Iterator[tuple[Worker, str]]:
    """Workers to be killed, with the reason. One that loads is held to its heartbeat and `load_timeout_s`."""
    for worker in fleet:
        silent_s = now_s - worker.heard_at_s
        if worker.condemned:
            continue
        if worker.state is WorkerState.STARTING and silent_s > config.hello_timeout_s:
            yield worker, f"no Hello in {silent_s:.0f} s"
        elif worker.is_up and silent_s > config.heartbeat_timeout_s:
            yield worker, f"nothing heard in {silent_s:.1f} s"
        elif worker.is_up and (reason := _stuck(worker, planner, config, now_s)):
            yield worker, reason


def _stuck(worker: Worker, planner: Planner | None, config: GatewayConfig, now_s: float) -> str | None:
    """Why a worker that is heard does not get on, None if it does."""
    if worker.phase in (Phase.LOADING, Phase.MEASURING):
        # a measurement is told of line by line, and between two lines there may be a load
        if (busy_s := now_s - worker.phase_since_s) > config.load_timeout_s:
            what = "a load that has not ended" if worker.phase is Phase.LOADING else "nothing was measured"
            return f"{what} in {busy_s:.0f} s"
        for task in worker.batch:
            # it waits behind the load
            task.moved_at_s = now_s
    for tasks in ([task] for task in worker.finishing.values()):
        if reason := _standing(worker, tasks, planner, config, now_s):
            return reason
    return _standing(worker, worker.batch, planner, config, now_s) if worker.batch else None


def _standing(
    worker: Worker, batch: Sequence[Task], planner: Planner | None, config: GatewayConfig, now_s: float
) -> str | None:
    """Why tasks do not get on: one device does them all, so as long as one of them moves none is stuck.

    That a further one was sent is no sign of life.
    """
    first = batch[0]
    moved_at_s = max(task.moved_at_s for task in batch if task is first or task.moved_at_s > task.sent_s)
    stuck_s = now_s - moved_at_s
    # a step of a batch takes at most as long as one of each of its tasks
    if stuck_s <= sum(_bound_s(worker.kind, task, planner, config) for task in batch):
        return None
    where = "+".join(first.pending) or "encoding its picture"
    return f"no progress in {where} for {stuck_s:.1f} s"


def _bound_s(device: str, task: Task, planner: Planner | None, config: GatewayConfig) -> float:
    """Seconds between two signs of progress. A stage that never ran may take as long as a warm-up."""
    if task.is_warm_up or planner is None:
        return config.warm_up_timeout_s
    if not task.pending:
        # many pictures may be in line for the one thread that encodes them
        return TIMES_EXPECTED * config.stall_timeout_s
    asked = (device, task.model, task.pending[0], task.shape)
    if (expected_s := planner.measured_s(*asked)) is not None:
        return max(config.stall_timeout_s, TIMES_EXPECTED * expected_s)
    if (guessed_s := planner.estimated_s(*asked)) is not None:
        return max(TIMES_EXPECTED * config.stall_timeout_s, TIMES_GUESSED * guessed_s)
    return config.warm_up_timeout_s
