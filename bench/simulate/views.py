"""Views with something changed. By hand, since a new one is made at every turn of a job and a worker, and
`dataclasses.replace` takes several times as long."""

from __future__ import annotations

from planner.types import JobView, RunningTask, StageKey, WorkerView


def job_view(
    before: JobView,
    *,
    running: bool | None = None,
    started: bool = False,
    pending: tuple[str, ...] | None = None,
    steps_done: int | None = None,
    steps: int | None = None,
    node: str | None = None,
) -> JobView:
    """What is None stays; what was `started` stays that."""
    return JobView(
        before.job_id,
        before.model,
        before.shape,
        before.steps if steps is None else steps,
        before.pending if pending is None else pending,
        before.arrived_s,
        before.deadline_s,
        before.running if running is None else running,
        before.steps_done if steps_done is None else steps_done,
        before.priority,
        before.started or started,
        before.batch_key,
        before.drop_if_late,
        before.least_steps,
        before.deadline_asked,
        before.node if node is None else node,
    )


def with_task(before: WorkerView, task: RunningTask | None) -> WorkerView:
    return WorkerView(
        before.worker_id,
        before.node,
        before.resident,
        before.loading,
        task,
        before.failed,
        before.occupied,
        before.device,
        before.memory_bytes,
        before.degrees,
    )


def with_stages(
    before: WorkerView,
    *,
    resident: frozenset[StageKey] | None = None,
    loading: frozenset[StageKey] | None = None,
    failed: frozenset[StageKey] | None = None,
) -> WorkerView:
    """What is None stays."""
    return WorkerView(
        before.worker_id,
        before.node,
        before.resident if resident is None else resident,
        before.loading if loading is None else loading,
        before.task,
        before.failed if failed is None else failed,
        before.occupied,
        before.device,
        before.memory_bytes,
        before.degrees,
    )
