"""What is noted of a simulation: GPU-seconds, ended stages for the planner, spans for drawings."""

from __future__ import annotations

from collections.abc import Callable

from bench.simulate.parts import Span, Task, Usage
from planner.types import StageSample


class Accounts:
    """`usage_s`: GPU-seconds by stage, and by what else took them. `on_span` hears of every ended stage."""

    def __init__(self, device: str) -> None:
        self.usage_s: dict[str, float] = {}
        self.on_span: Callable[[Span], None] | None = None
        self._device = device
        self._samples: list[StageSample] = []

    def use(self, what: str | Usage, seconds: float) -> None:
        if seconds:
            name = str(what)
            self.usage_s[name] = self.usage_s.get(name, 0.0) + seconds

    def take_samples(self) -> tuple[StageSample, ...]:
        """The stages that ended since this was last called."""
        samples = tuple(self._samples)
        self._samples.clear()
        return samples

    def stage_ended(self, task: Task, now_s: float) -> None:
        """The running stage of `task` came to its end."""
        in_loop = task.in_loop
        degree = len(task.devices)
        steps = task.steps - task.steps_before if in_loop else 1
        self.use(task.stage, task.stage_s * (degree if in_loop else 1))
        if not in_loop:
            self.use(Usage.GANG_WAIT, task.stage_s * (degree - 1))
        of_stage = degree if in_loop else 1
        shape, batch = task.jobs[0].view.shape, len(task.jobs)
        self._samples.append(
            StageSample(
                task.model,
                task.stage,
                shape,
                steps,
                task.stage_s,
                now_s,
                device=self._device,
                worker=task.devices[0].worker_id,
                degree=of_stage,
                batch=batch,
                peak_bytes=task.costs.peak_bytes(task.stage, shape, degree=of_stage, batch=batch),
            )
        )
        self._span(task, now_s, steps if in_loop else 0)

    def loop_left(self, task: Task, now_s: float, n_steps: int) -> None:
        """The loop of `task` was left behind `n_steps` of its own."""
        self.use(task.stage, n_steps * task.step_s * len(task.devices))
        self._span(task, now_s, n_steps)

    def took_over(self, task: Task, seconds: float) -> None:
        """The first member took over from a checkpoint or another worker while the others waited."""
        self.use(Usage.TAKEOVER, seconds)
        self.use(Usage.GANG_WAIT, seconds * (len(task.devices) - 1))

    def task_lost(self, task: Task, now_s: float, kept_steps: int) -> None:
        """`task` ended with one of its workers; if it was in its loop, `kept_steps` of that are stored."""
        if task.place is None:
            return
        if now_s < task.stage_began_s:
            # booked when it began, as all takeovers are
            self.took_over(task, now_s - task.stage_began_s)
            return
        ran_s = now_s - task.stage_began_s
        degree = len(task.devices)
        if task.in_loop:
            kept_s = kept_steps * task.step_s
            self.use(task.stage, kept_s * degree)
            self.use(Usage.LOST, (ran_s - kept_s) * degree)
            return
        self.use(Usage.LOST, ran_s)
        self.use(Usage.GANG_WAIT, ran_s * (degree - 1))

    def _span(self, task: Task, now_s: float, steps: int) -> None:
        if self.on_span is None:
            return
        members = task.devices if task.in_loop else task.devices[:1]
        from_step = task.steps_before if task.in_loop else 0
        for job in task.jobs:
            for place, device in enumerate(members):
                self.on_span(
                    Span(
                        device.worker_id,
                        job.view.job_id,
                        task.model,
                        task.stage,
                        task.stage_began_s,
                        now_s,
                        steps,
                        from_step,
                        place == 0,
                    )
                )
