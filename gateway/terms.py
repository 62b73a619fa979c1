"""How soon a request is wanted, and what becomes of it when it is late."""

from __future__ import annotations

import msgspec

from planner.types import Priority


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """`slo_ms`: milliseconds from arrival to the deadline; None: by what the request costs and `priority`.

    `drop_if_late`: it is worth nothing after its deadline, and is ended then; otherwise it is finished late.
    `least_steps`: the fewest with which it may be made to be in time; None if it did not agree to fewer.
    """

    slo_ms: float | None = None
    priority: Priority = "standard"
    drop_if_late: bool = False
    least_steps: int | None = None
