"""`python -m tests.system.lying_gateway FOLDER ...flags`: the gateway over workers that lie as they are told.

See `tests.system.lying_worker`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

from gateway.__main__ import main
from gateway.config import WorkerSpec
from gateway.supervisor import Command, worker_command
from tests.system.nodes import LIES_FOLDER


def lying_command(**settings: Any) -> Command:
    """Real workers' command, but for the module."""
    real = worker_command(**settings)

    def command(spec: WorkerSpec) -> Sequence[str]:
        return tuple("tests.system.lying_worker" if word == "worker" else word for word in real(spec))

    return command


if __name__ == "__main__":
    os.environ[LIES_FOLDER] = sys.argv[1]
    with mock.patch("gateway.service.worker_command", lying_command):
        sys.exit(main(sys.argv[2:]))
