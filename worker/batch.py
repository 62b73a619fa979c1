"""Jobs that go on together, sharing the calls of their networks: of their text encoders, then of their loops.

No loop is rewritten for it. Each job has its own scheduler, guider, generator and place in its loop, and
stops at every call of the network. When all have stopped, calls that fit together are made as one and each
job gets its part. So jobs may be at different steps, of different numbers of steps, with different guidance;
one may enter between any two rounds, and whatever one raises ends that one only.

The first job runs on the thread of the device, as if there were no batches, and its calls begin the rounds;
those that join it have threads of their own. Exactly one of all these runs at a time: nothing here needs a
lock, and diffusers never sees two threads. Rejected: one loop over a stacked state, which would have to be
written anew for every family and scheduler; and a thread for the first job too, which cost a lone picture
several per cent of its time on two cores.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from worker.memory import give_back, out_of_memory
from worker.network_call import NetworkCall, grouped, make_as_one

Work = Callable[[], Any]


@dataclass(frozen=True)
class Outcome:
    """What came of something that was made for a job: its `value`, or the `error` that it shall raise."""

    value: Any = None
    error: BaseException | None = None


class LaneCrashed(BaseException):
    """A job let something out on its thread: our error, and no `Exception` for which another job answers."""


class Seat(Protocol):
    """A job's place in a batch, as the job sees it.

    `shared`: whether a call of this job's was made together with another's.
    """

    shared: bool

    def through(self, call: NetworkCall) -> Any:
        """The output of `call`. Raises what the network raises."""

    def aside(self, work: Work) -> Any:
        """What `work` returns, done at once on the thread of the device. Raises what it raises.

        For what is heavy: libraries keep worker threads and work space for each thread that computes.
        """


class First:
    """The seat of the job that a batch begins with, on the thread of the device."""

    def __init__(self, call: Callable[[First, NetworkCall], Any]) -> None:
        self._call = call
        self.shared = False

    def through(self, call: NetworkCall) -> Any:
        return self._call(self, call)

    def aside(self, work: Work) -> Any:
        return work()


class Lane:
    """The seat of a job that joins: a thread, which moves only inside `resume`.

    Meanwhile it stands still at what it asked for.
    """

    def __init__(self, job: Callable[[Seat], None], device: torch.device) -> None:
        self._job = job
        self._device = device
        self._asked: NetworkCall | Work | None = None
        self._outcome = Outcome()
        self._crash: BaseException | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self.shared = False
        # an error of ours that leaves a job standing must not keep the process from ending
        self._thread = threading.Thread(target=self._live, name="lane", daemon=True)
        self._thread.start()

    def through(self, call: NetworkCall) -> Any:
        return self._ask(call)

    def aside(self, work: Work) -> Any:
        return self._ask(work)

    def resume(self, outcome: Outcome) -> NetworkCall | Work | None:
        """For the batch: what the job asks for next, having got `outcome`; None when it has ended."""
        self._asked, self._outcome = None, outcome
        self._go.release()
        self._back.acquire()
        if self._crash is not None:
            raise LaneCrashed from self._crash
        return self._asked

    def _ask(self, asked: NetworkCall | Work) -> Any:
        self._asked = asked
        self._back.release()
        self._go.acquire()
        outcome, self._outcome = self._outcome, Outcome()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _live(self) -> None:
        self._go.acquire()
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            self._job(self)
        except BaseException as crash:  # a job answers for its own errors, so this one is ours; see `resume`
            self._crash = crash
        finally:
            self._back.release()


class Batch:
    """Seats and the calls at which they stand. For the one thread that runs it, which makes all calls.

    `before_round` is called before every round, and may let others enter. Calls that run out of memory
    together are made again in halves, and so is whatever the batch makes from then on; a call that fails
    alone fails its job alone.
    """

    def __init__(self, device: torch.device, before_round: Callable[[], None] = lambda: None) -> None:
        self._device = device
        self._before_round = before_round
        self._standing: dict[Lane, NetworkCall] = {}
        self._most_calls = sys.maxsize

    @property
    def is_over(self) -> bool:
        """Whether all jobs that entered have ended."""
        return not self._standing

    def run(self, job: Callable[[Seat], None]) -> None:
        """Run `job` to its end, and then those that entered meanwhile to theirs. It must not raise."""
        job(First(self._round_with))
        while not self.is_over:
            self._before_round()
            self.round()

    def enter(self, job: Callable[[Seat], None]) -> None:
        """Run `job` up to its first call of the network, or to its end. It must not raise."""
        self._advance(Lane(job, self._device), Outcome())

    def round(self) -> None:
        """Make the call of every lane, as few as can be, and let each lane go on to its next one.

        Where some are calls that go first, those only: who has just entered encodes before it is in step.
        """
        lanes = _due(self._standing)
        made = self._made(list(lanes.items()))
        for lane, call in lanes.items():
            # popped, so that an output does not outlive the step that it is for
            self._advance(lane, made.pop(call))

    def _round_with(self, first: First, call: NetworkCall) -> Any:
        """The same, with the first job's call among the others; returns its output."""
        self._before_round()
        while not call.goes_first and any(other.goes_first for other in self._standing.values()):
            self.round()
            self._before_round()
        if self.is_over:
            return call.make()
        lanes = {
            lane: theirs for lane, theirs in self._standing.items() if call.goes_first <= theirs.goes_first
        }
        made = self._made([(first, call), *lanes.items()])
        outcome = made.pop(call)
        for lane, theirs in lanes.items():
            self._advance(lane, made.pop(theirs))
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _made(self, standing: Sequence[tuple[Seat, NetworkCall]]) -> dict[NetworkCall, Outcome]:
        made: dict[NetworkCall, Outcome] = {}
        together: set[NetworkCall] = set()
        with torch.no_grad():
            for group in grouped([call for _, call in standing]):
                while group:
                    part = group[: self._most_calls]
                    outcomes = self._made_as_one(part)
                    if outcomes is None:
                        self._most_calls = len(part) // 2
                        continue
                    if len(part) > 1:
                        together.update(part)
                    made.update(zip(part, outcomes, strict=True))
                    group = group[len(part) :]
        for seat, call in standing:
            seat.shared |= call in together
        return made

    def _made_as_one(self, group: list[NetworkCall]) -> list[Outcome] | None:
        """None if there is no memory for so many."""
        if len(group) == 1:
            return [_outcome_of(group[0].make)]
        try:
            return [Outcome(value=output) for output in make_as_one(group)]
        except Exception as error:  # each job answers for it
            if out_of_memory(error) is None:
                return [Outcome(error=error)] * len(group)
            give_back(self._device, error)
            return None

    def _advance(self, lane: Lane, outcome: Outcome) -> None:
        self._standing.pop(lane, None)
        asked = lane.resume(outcome)
        while asked is not None and not isinstance(asked, NetworkCall):
            asked = lane.resume(_outcome_of(asked))
        if asked is not None:
            self._standing[lane] = asked


def _due(standing: Mapping[Lane, NetworkCall]) -> dict[Lane, NetworkCall]:
    """Those whose calls are made in this round."""
    first = {lane: call for lane, call in standing.items() if call.goes_first}
    return first or dict(standing)


def _outcome_of(work: Work) -> Outcome:
    try:
        return Outcome(value=work())
    except BaseException as error:  # raised again by the job that asked
        return Outcome(error=error)
