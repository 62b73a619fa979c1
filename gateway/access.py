"""Who may call what."""

from __future__ import annotations

from typing import Literal

Scope = Literal["public", "client", "metrics", "admin"]
"""Who may call a route: anyone; any key; an admin key, or anyone where there are no keys; an admin key, or
the node itself where there are no keys."""
