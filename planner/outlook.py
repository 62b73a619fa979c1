"""What is left, in seconds, of waiting jobs and of running tasks: the profile as dispatch asks it.

One value lives for one decision; what was asked is kept as long as the profile says the same. Nothing here
knows what waits for what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.profile import Profile
from planner.types import JobView, ModelView, RunningTask, Shape

Kind = tuple[str, tuple[int, ...]]
"""Workers that take equally long: their device kind, and the degrees that they offer on the widest node."""

ROUNDING_S = 1e-6
"""How much too late still counts as on time: sums of many step times are not exact."""


MAX_KEPT = 10_000
"""Of how many jobs the last answer is kept."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a job that begins now: stages before its loop, the loop by degree, stages behind it.

    `degrees` ascend, `loop_s` and `total_s` belong to them. Going on from a checkpoint is in `before_s`. A
    job whose loop is over has degree 1 alone. `cheapest` is the place of the degree of least GPU-seconds.
    """

    before_s: float
    after_s: float
    degrees: tuple[int, ...]
    loop_s: tuple[float, ...]
    total_s: tuple[float, ...]
    cheapest: int
    fastest_s: float

    def least_degree(self, within_s: float, narrowest: int = 1) -> int | None:
        """The place of the smallest degree, `narrowest` or wider, that takes no longer; None if none does."""
        for place, seconds in enumerate(self.total_s):
            if seconds <= within_s + ROUNDING_S and self.degrees[place] >= narrowest:
                return place
        return None

    def cheapest_from(self, narrowest: int) -> int:
        """The place of the degree of least GPU-seconds that is `narrowest` or wider, else of the widest."""
        able = [place for place, degree in enumerate(self.degrees) if degree >= narrowest]
        return min(able, key=lambda place: self.degrees[place] * self.loop_s[place], default=-1)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is. `ends_s`: when all of it is done.

    `boundary_s`: when its loop can be left the next time with a step made, behind which `steps_left` are to
    be done; None if its loop is over by then.
    """

    ends_s: float
    boundary_s: float | None = None
    steps_left: int = 0
    steps_made: int = 0
    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GoingOn:
    """What a task that left its loop still costs: a step by degree, the resume, what follows the loop."""

    degrees: tuple[int, ...]
    step_s: tuple[float, ...]
    resume_s: float
    after_s: float


@dataclass(slots=True, eq=False)
class Known:
    """What was asked of a profile: nothing of it depends on the time.

    `of_jobs`: the last answer for each job, since to find it among `left` takes longer than all else.
    """

    of_jobs: dict[str, tuple[JobView, Kind, Left | None]] = field(default_factory=dict)
    proved: dict[tuple[str, str], bool] = field(default_factory=dict)
    left: dict[tuple[str, int, Shape, int, bool, Kind, int], Left | None] = field(default_factory=dict)
    running_s: dict[tuple[str, str, Shape, int, int], dict[str, float | None]] = field(default_factory=dict)
    going_on: dict[tuple[Kind, str, Shape, int, int], GoingOn | None] = field(default_factory=dict)


class Outlook:
    """Of one moment, `now_s`. `before`: an earlier one, whose answers still hold if nothing else changed."""

    def __init__(
        self,
        profile: Profile,
        models: Mapping[str, ModelView],
        now_s: float,
        before: Outlook | None = None,
    ) -> None:
        self.profile = profile
        self.now_s = now_s
        self._models = models
        self.known = Known()
        if before is not None and profile.is_same(before.profile) and models == before._models:
            self.known = before.known

    def view(self, model: str) -> ModelView | None:
        """None for a model that is not served any more."""
        return self._models.get(model)

    def left(self, job: JobView, kind: Kind, batch: int = 1) -> Left | None:
        """Of a waiting job on workers of `kind`, if `batch` jobs share its calls; None if it is not known."""
        if batch != 1:
            return self._left_of(job, kind, batch)
        of_jobs = self.known.of_jobs
        kept = of_jobs.get(job.job_id)
        if kept is not None and kept[0] is job and kept[1] is kind:
            return kept[2]
        if len(of_jobs) >= MAX_KEPT:
            of_jobs.clear()
        left = self._left_of(job, kind, 1)
        of_jobs[job.job_id] = (job, kind, left)
        return left

    def is_proved(self, device: str, model: str) -> bool:
        """Whether what is known of the model there is more than a guess."""
        key = (device, model)
        if key not in self.known.proved:
            view = self._models.get(model)
            self.known.proved[key] = view is not None and self.profile.is_proved(device, view)
        return self.known.proved[key]

    def _left_of(self, job: JobView, kind: Kind, batch: int) -> Left | None:
        left = job.steps - job.steps_done
        key = (job.model, len(job.pending), job.shape, left, job.steps_done > 0, kind, batch)
        try:
            return self.known.left[key]
        except KeyError:
            made = self.known.left[key] = self._made(job, kind, batch)
            return made

    def stages_s(
        self, job: JobView, stages: tuple[str, ...], kind: Kind, degree: int = 1, batch: int = 1
    ) -> float | None:
        """Of the next `stages` of a waiting job; None if one is not known."""
        view = self._models.get(job.model)
        if view is None:
            return None
        total_s = 0.0
        for stage in stages:
            is_loop = stage == view.loop_stage
            seconds = self.profile.stage_s(
                kind[0],
                view,
                stage,
                job.shape,
                job.steps - job.steps_done,
                degree=degree if is_loop else 1,
                batch=batch,
            )
            if seconds is None:
                return None
            total_s += seconds + (self.resume_s(job, kind) if is_loop else 0.0)
        return total_s

    def resume_s(self, job: JobView, kind: Kind) -> float:
        """What a waiting job pays for having been paused: nothing if it was not."""
        return self.profile.resume_s(kind[0], self._models[job.model]) if job.steps_done else 0.0

    def progress(
        self, task: RunningTask, device: str, running_s: Mapping[str, float | None] | None = None
    ) -> Progress | None:
        """How far `task` is on workers of `device`; None if one of its stages is not known.

        Steps that must have ended since the last one was heard of count as done. `running_s`: what
        `running_s` said, if that is at hand.
        """
        view = self._models.get(task.model)
        if view is None:
            return None
        if running_s is None:
            running_s = self.running_s(task, device)
        elapsed_s = max(0.0, self.now_s - max(task.since_s, task.started_s))
        at_s = self.now_s
        boundary_s, steps_left, steps_made, step_s = None, 0, 0, 0.0
        for stage in task.pending:
            seconds = running_s.get(stage)
            if seconds is None:
                return None
            if stage != view.loop_stage:
                at_s += max(0.0, seconds - elapsed_s)
                elapsed_s = 0.0
                continue
            to_do = max(0, task.steps - task.steps_done)
            done = min(to_do, int(elapsed_s / seconds + 1e-9)) if seconds > 0 else 0
            began_s = at_s - elapsed_s
            if done + 1 < to_do:
                boundary_s, steps_left, step_s = began_s + (done + 1) * seconds, to_do - done - 1, seconds
                steps_made = task.steps_done + done + 1 - task.steps_before
            at_s = max(at_s, began_s + to_do * seconds)
            elapsed_s = 0.0
        return Progress(at_s, boundary_s, steps_left, steps_made, step_s)

    def going_on(self, task: RunningTask, kind: Kind) -> GoingOn | None:
        """Of a task that is to leave its loop; None if its degree is not known."""
        key = (kind, task.model, task.shape, task.degree, len(task.pending))
        try:
            return self.known.going_on[key]
        except KeyError:
            made = self.known.going_on[key] = self._made_going_on(task, kind)
            return made

    def _made_going_on(self, task: RunningTask, kind: Kind) -> GoingOn | None:
        view = self._models.get(task.model)
        if view is None:
            return None
        device, offered = kind
        loop = view.stages.index(view.loop_stage)
        steps: dict[int, float] = {}
        for degree in sorted({*offered, task.degree} & {*self.profile.degrees(device, view)}):
            seconds = self.profile.stage_s(device, view, view.loop_stage, task.shape, 1, degree=degree)
            if seconds is not None:
                steps[degree] = seconds
        if task.degree not in steps:
            return None
        return GoingOn(
            tuple(steps),
            tuple(steps.values()),
            self.profile.resume_s(device, view),
            sum(
                self.profile.stage_s(device, view, stage, task.shape, 1) or 0.0
                for stage in task.pending
                if view.stages.index(stage) > loop
            ),
        )

    def running_s(self, task: RunningTask, device: str) -> Mapping[str, float | None]:
        """Seconds of each stage as the task runs it, of a loop per step; of none if its model is gone."""
        view = self._models.get(task.model)
        if view is None:
            return {}
        batch = max(1, len(task.job_ids))
        key = (device, task.model, task.shape, task.degree, batch)
        known = self.known.running_s.get(key)
        if known is None:
            known = self.known.running_s[key] = {
                stage: self.profile.stage_s(
                    device,
                    view,
                    stage,
                    task.shape,
                    1,
                    degree=task.degree if stage == view.loop_stage else 1,
                    batch=batch,
                )
                for stage in view.stages
            }
        return known

    def _made(self, job: JobView, kind: Kind, batch: int) -> Left | None:
        view = self._models.get(job.model)
        if view is None:
            return None
        device, offered = kind
        before_s = after_s = 0.0
        loops: dict[int, float] = {}
        for stage in job.pending:
            if stage == view.loop_stage:
                known = self.profile.degrees(device, view)
                for degree in offered if batch == 1 else (1,):
                    seconds = None
                    if degree in known:
                        seconds = self.profile.stage_s(
                            device,
                            view,
                            stage,
                            job.shape,
                            job.steps - job.steps_done,
                            degree=degree,
                            batch=batch,
                        )
                    if seconds is not None:
                        loops[degree] = seconds
                if not loops:
                    return None
                before_s += self.resume_s(job, kind)
                continue
            seconds = self.profile.stage_s(device, view, stage, job.shape, 1, batch=batch)
            if seconds is None:
                return None
            if loops:
                after_s += seconds
            else:
                before_s += seconds
        ordered = sorted(loops.items()) or [(1, 0.0)]
        work_s = [degree * seconds for degree, seconds in ordered]
        total_s = tuple(before_s + seconds + after_s for _, seconds in ordered)
        return Left(
            before_s=before_s,
            after_s=after_s,
            degrees=tuple(degree for degree, _ in ordered),
            loop_s=tuple(seconds for _, seconds in ordered),
            total_s=total_s,
            cheapest=work_s.index(min(work_s)),
            fastest_s=min(total_s),
        )


def on_grid(now_s: float, every_s: float) -> float:
    """The next multiple of `every_s` behind `now_s`: whoever asks again asks for the same moment."""
    return (math.floor(now_s / every_s) + 1) * every_s
