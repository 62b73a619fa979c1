"""What a process holds of memory, each page counted in parts by how many processes share it (Linux)."""

from __future__ import annotations

from pathlib import Path


def pss_bytes(pid: int) -> int:
    """Of all its pages. Raises `OSError` if it is gone."""
    return _sums(Path(f"/proc/{pid}/smaps_rollup"), "")["Pss"]


def mapped_bytes(pid: int, path_part: str) -> dict[str, int]:
    """ "Rss" and "Pss" of the files it maps whose path has `path_part` in it. Raises `OSError`."""
    return _sums(Path(f"/proc/{pid}/smaps"), path_part)


def _sums(file: Path, path_part: str) -> dict[str, int]:
    sums = {"Rss": 0, "Pss": 0}
    counts = False
    for line in file.read_text("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if not colon or " " in name:
            # the head of a mapping: addresses, rights, offset, device, inode, path
            counts = path_part in line
        elif counts and name in sums:
            sums[name] += int(value.split()[0]) * 1024
    return sums
