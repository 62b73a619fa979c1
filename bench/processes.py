"""What a process has used and holds, as the kernel tells it. Raises `OSError` for one that is gone."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIB = 1024


def cpu_s(pid: int) -> float:
    """Seconds of processor time of all its threads, in user code and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory, shared pages counted whole."""
    return _status_kib(pid, "VmRSS") * _KIB


def n_threads(pid: int) -> int:
    return _status_kib(pid, "Threads")


def n_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def folder_bytes(folder: Path) -> tuple[int, int]:
    """Files below `folder` and their bytes; none if it is not there."""
    n_files = n_bytes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                n_bytes += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
            n_files += 1
    return n_files, n_bytes


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0
