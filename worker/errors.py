"""What can go wrong on a device, and the two signals that are no errors.

WorkerError
|- StageNotResident     a task for a stage whose weights are not here (the gateway's fault)
|- ComponentNotHeld     a block wanted the weights of a part that this worker does not hold (ours)
|- LoadRefused          a model source that cannot be loaded as asked (the operator's fault)
|- ProfileRefused       a model none of whose runs could be measured (as its requests would fail)
|- AdapterRefused       a LoRA adapter that is missing or does not fit the model (the operator's fault)
|- HostFolderFull       a host copy that does not fit under its bound (nobody: loaded without one)
`- HandoffRefused       a stage output that cannot be packed, or bytes that cannot be unpacked (ours)

StopAtBoundary and PausedAtBoundary are BaseExceptions: diffusers logs a traceback for every Exception that
passes a block.
"""

from __future__ import annotations

from wire.handle import Handle


class WorkerError(Exception):
    """Base of this package's errors."""


class StageNotResident(WorkerError):
    """A task for a stage whose weights are not here."""


class ComponentNotHeld(WorkerError):
    """A block wanted more than the configuration of a part that this worker does not hold."""


class LoadRefused(WorkerError):
    """A model source that cannot be loaded as asked."""


class ProfileRefused(WorkerError):
    """A stage that could not be measured at any shape."""


class AdapterRefused(WorkerError):
    """A LoRA adapter that is missing or does not fit the model. `adapter` is its name in the request."""

    def __init__(self, adapter: str, reason: str) -> None:
        super().__init__(f"adapter {adapter!r}: {reason}")
        self.adapter = adapter


class HandoffRefused(WorkerError):
    """A stage output that cannot be packed, or bytes that are no packed output."""


class HostFolderFull(WorkerError):
    """The bound of the folder of host copies, or of the file system below it, would be passed."""


class PausedAtBoundary(BaseException):
    """Raised inside the loop to leave it at a step boundary, whose checkpoint is in the store."""

    def __init__(self, steps_done: int, checkpoint: Handle) -> None:
        super().__init__(f"paused after {steps_done} steps")
        self.steps_done = steps_done
        self.checkpoint = checkpoint


class StopAtBoundary(BaseException):
    """Raised inside the loop to leave it at a step boundary. `steps_done` steps are complete."""

    def __init__(self, steps_done: int) -> None:
        super().__init__(f"stopped after {steps_done} steps")
        self.steps_done = steps_done
