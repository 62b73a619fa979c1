"""How a model goes: its open requests end, then its tasks, then every worker forgets it.

Only then is it gone, or loaded anew if that was asked meanwhile. A worker answers in the order in which it
was told, so nothing that it says of the first load can be taken for an answer to the second.
"""

from __future__ import annotations

from gateway.errors import ModelUnloaded
from gateway.jobs import Outcome
from gateway.served import Leaving, ServedModel, Status
from gateway.surroundings import Surroundings
from wire.to_worker import CancelTask, ForgetModel


class Departures:
    """Steps that are taken as soon as they can be. Nothing here waits."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def begin(self, served: ServedModel, drain_until_s: float) -> None:
        """Its open requests have until then."""
        if served.leaving is None:
            served.leaving = Leaving.DRAINING
        served.drain_until_s = drain_until_s

    def advance(self, served: ServedModel, now_s: float) -> bool:
        """The next steps, as far as they can be taken now. True once nothing is left of one that is to go."""
        if served.leaving is Leaving.DRAINING and not self._is_open(served, now_s):
            self._withdraw(served)
        if served.leaving is Leaving.ENDING and not self._has_tasks(served):
            self._forget(served)
        if served.leaving is Leaving.FORGETTING and not served.told:
            served.leaving = None
            return served.status is Status.UNLOADING
        return False

    def forgotten(self, served: ServedModel, worker_id: str) -> None:
        """That worker holds nothing of it any more."""
        served.told.discard(worker_id)

    def _is_open(self, served: ServedModel, now_s: float) -> bool:
        """Whether requests of it still have time; those that have none are ended."""
        if not any(job.model == served.name for job in self._around.desk.book):
            return False
        if now_s < served.drain_until_s:
            self._around.wake_at(served.drain_until_s)
            return True
        error = ModelUnloaded(f"{served.name} was unloaded before this request was done")
        self._around.desk.end_model(served.name, Outcome.CANCELLED, error)
        return False

    def _withdraw(self, served: ServedModel) -> None:
        """Nothing new is begun for it."""
        served.leaving = Leaving.ENDING
        self._around.planner.leave(served.name)
        if served.runs is not None:
            served.runs.warm_ups.close()
        for worker in self._around.fleet.up():
            for task in worker.batch:
                if task.model == served.name and task.is_warm_up:
                    self._around.send(worker.worker_id, CancelTask(task_id=task.task_id))

    def _has_tasks(self, served: ServedModel) -> bool:
        return any(task.model == served.name for worker in self._around.fleet for task in worker.tasks)

    def _forget(self, served: ServedModel) -> None:
        served.leaving = Leaving.FORGETTING
        served.graph = served.runs = served.described_by = None
        self._around.encodes.forget(served.name)
        for worker in self._around.fleet.up():
            worker.forget(served.name)
            worker.unanswered += 1
            served.told.add(worker.worker_id)
            self._around.send(worker.worker_id, ForgetModel(model=served.name))
