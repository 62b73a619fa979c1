"""What is known of one request for pictures, written down on its way, for its one line in the log.

The slip is made where the request comes in and is the same for everything that its handler calls. What
happens elsewhere on its behalf (a stage that ended on a worker) reaches it by the request's id (`accounts`).
No I/O here.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field

from gateway.errors import ApiError
from gateway.jobs import Request


@dataclass(slots=True, eq=False)
class Slip:
    """`client_request_id`, `model` and `user` are the client's own words. `request`: None if it was refused
    before.

    `workers`: by stage, in order, those that ran it to its end. `retries`: by reason, over all pictures.
    """

    request_id: str
    client_request_id: str | None = None
    key_name: str | None = None
    model: str | None = None
    prompt: str | None = None
    user: str | None = None
    error: ApiError | None = None
    request: Request | None = None
    workers: dict[str, list[str]] = field(default_factory=dict)
    retries: Counter[str] = field(default_factory=Counter)

    def ran(self, stage: str, worker_id: str) -> None:
        workers = self.workers.setdefault(stage, [])
        if worker_id not in workers:
            workers.append(worker_id)


SLIP: ContextVar[Slip | None] = ContextVar("slip", default=None)
"""Of the request that is being handled; None where nobody writes one."""


def noted(model: str | None, prompt: str, user: str | None) -> None:
    """What the client asked for, in its own words."""
    if (slip := SLIP.get()) is not None:
        slip.model, slip.prompt, slip.user = model, prompt, user
