"""What can go wrong between processes.

WireError
|- MessageRefused     bytes that are no message of the link (the peer's fault)
|- StoreFull          a handoff file does not fit under the store's bound (ours: retry when handles are freed)
|- HandoffLost        a handle whose file is gone (ours: retry from an earlier stage)
|- NotPrivate         the runtime folder is not ours alone (the operator's fault)
`- AlreadyRunning     another process owns the runtime folder (the operator's fault)
"""

from __future__ import annotations


class WireError(Exception):
    """Base of this package's errors."""


class MessageRefused(WireError):
    """Bytes that are no message of the link."""


class StoreFull(WireError):
    """The handoff store's bound in bytes would be passed."""


class HandoffLost(WireError):
    """A handle whose file is not in the store."""


class NotPrivate(WireError):
    """A folder that should be ours alone is somebody else's, or open to others."""


class AlreadyRunning(WireError):
    """Another live process owns the runtime folder."""
