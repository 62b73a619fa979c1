"""`python -m worker`: one worker process. Started by the gateway's supervisor, rarely by hand."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from pathlib import Path

from wire.sockets import flush
from worker.config import WorkerConfig

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that happens."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # the parent ended between the two calls, so no signal will come
        sys.exit(1)


def _parse(argv: list[str] | None) -> WorkerConfig:
    parser = argparse.ArgumentParser(prog="worker", description="Run one device of a gateway's fleet.")
    parser.add_argument("--worker-id", required=True)
    parser.add_argument("--device", required=True, help="cpu or cuda:N")
    parser.add_argument("--threads", type=int, required=True, help="threads for arithmetic on a CPU")
    parser.add_argument("--endpoint", required=True, help="where the gateway's ROUTER is bound")
    parser.add_argument("--handoff", type=Path, required=True, help="folder of the handoff store")
    parser.add_argument("--capacity-bytes", type=int, required=True, help="bound of the handoff store")
    parser.add_argument("--host-weights", type=Path, help="folder of the node's host copies (default: none)")
    parser.add_argument("--host-weights-bytes", type=int, default=0, help="bound of the host copies")
    parser.add_argument("--memory-bytes", type=int, help="bound of the weights held (default: none)")
    parser.add_argument("--kernels", choices=("auto", "triton", "torch"), default="torch")
    return WorkerConfig(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    config = _parse(argv)
    die_with_parent()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # importing torch takes seconds, in which the parent may already end
    from kernels.switch import KernelsUnavailable
    from worker.process import Rejected, serve

    # Ctrl-C reaches the whole process group; the gateway decides when its workers stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(serve(config))
    except (Rejected, TimeoutError, KernelsUnavailable) as error:
        print(f"worker {config.worker_id}: {error or 'the gateway did not answer'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    flush()
    sys.stdout.flush()
    sys.stderr.flush()
    # torch and its libraries take seconds to take apart what the kernel frees at once
    os._exit(code)
