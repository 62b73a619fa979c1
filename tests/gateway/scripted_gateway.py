"""`python -m tests.gateway.scripted_gateway FATES ...flags`: the gateway over scripted worker processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.__main__ import main
from gateway.config import WorkerSpec
from gateway.service import MakeCommand
from gateway.supervisor import Command
from wire.runtime import RuntimeFolder


def scripted_command(fates: Path) -> MakeCommand:
    def make(runtime: RuntimeFolder) -> Command:
        def command(spec: WorkerSpec) -> Sequence[str]:
            return (
                *(sys.executable, "-m", "tests.gateway.scripted"),
                *("--worker-id", spec.worker_id, "--device", spec.device, "--threads", str(spec.threads)),
                *("--endpoint", runtime.endpoint, "--handoff", str(runtime.handoff)),
                *("--capacity-bytes", "1000000", "--fates", str(fates)),
            )

        return command

    return make


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], make_command=scripted_command(Path(sys.argv[1]))))
