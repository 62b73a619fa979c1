"""What a worker's process prints, told line by line in the log.

Whatever a library writes there, each line of the log stays one record in the form that was asked for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading

log = logging.getLogger("gateway.worker")

_MAX_LINE_BYTES = 4096
_LAST_LINES_S = 1.0


class WorkerOutput:
    """The writing end is `fd`, for the process to be started, and is to be closed here once it has it.

    A thread reads: a busy event loop must not stop a worker that prints. It ends when the last process that
    can print has ended.
    """

    def __init__(self, worker_id: str) -> None:
        reading, self.fd = os.pipe()
        self._worker_id = worker_id
        self._thread = threading.Thread(
            target=self._read, args=(reading,), name=f"output of {worker_id}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        os.close(self.fd)

    async def ended(self) -> None:
        """Returns when all was told, or after a second: a process of the worker's own may live on."""
        await asyncio.to_thread(self._thread.join, _LAST_LINES_S)

    def _read(self, reading: int) -> None:
        with open(reading, "rb") as stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                # bars of progress draw over themselves; what they looked like last is enough
                shown = line.decode(errors="replace").rstrip().rpartition("\r")[2]
                if shown:
                    log.warning("%s", shown, extra={"fields": {"worker": self._worker_id}})
