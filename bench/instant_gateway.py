"""`python -m bench.instant_gateway PROFILE ...flags`: a real gateway over workers that answer at once.

SIGUSR1 begins to profile its event loop, SIGUSR2 writes what was gathered to the file PROFILE.
"""

from __future__ import annotations

import cProfile
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gateway.__main__ import main
from gateway.config import WorkerSpec
from gateway.supervisor import Command
from wire.runtime import RuntimeFolder

_CAPACITY_BYTES = 2 * 1024**3


def instant_command(runtime: RuntimeFolder) -> Command:
    """How an instant worker is started."""

    def command(spec: WorkerSpec) -> Sequence[str]:
        return (
            *(sys.executable, "-m", "bench.instant_worker"),
            *("--worker-id", spec.worker_id),
            *("--endpoint", runtime.endpoint),
            *("--handoff", str(runtime.handoff)),
            *("--capacity-bytes", str(_CAPACITY_BYTES)),
        )

    return command


def profile_on_signals(file: Path) -> None:
    """Both signals are handled by the thread of the event loop, which is the one that is profiled."""
    profile = cProfile.Profile()

    def begin(number: int, frame: FrameType | None) -> None:
        profile.enable()

    def end(number: int, frame: FrameType | None) -> None:
        profile.disable()
        draft = file.with_suffix(".draft")
        profile.dump_stats(draft)
        draft.rename(file)

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)


if __name__ == "__main__":
    profile_on_signals(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:], make_command=instant_command))
