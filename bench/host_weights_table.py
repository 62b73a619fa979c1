"""The table of `python -m bench host-weights`."""

from __future__ import annotations

from typing import Any

from bench.markdown import host_line, table

_MB = 1e6


def host_weights(result: dict[str, Any]) -> str:
    """Loads by where they come from, and what workers hold with and without host copies."""
    loads = result["loads"]
    disk, host = loads["ways"]
    clock = "processor" if result["device"] == "CPU" else "wall"
    ratio = host["picture_ms"]["p50"] / disk["picture_ms"]["p50"]
    lines = [
        "# One host copy of weights",
        "",
        result["question"],
        "",
        f"All stages of {result['model']} ({loads['weights_bytes'] / _MB:.1f} MB as a worker holds them,"
        f" {loads['host_bytes'] / _MB:.1f} MB of host copies), loaded again on a worker that had evicted"
        f" them; {disk['n']} times each way, in turns. The files on disk were in the page cache. Pictures are"
        f" in {clock} time; all {loads['n_pictures_compared']} were the same bytes.",
        "",
        *table(
            ("", "load, ms p20", "p50", "p80", "picture after it, ms p20", "p50", "p80"),
            (
                (way["name"], *(f"{way[part][p]:.1f}" for part in ("load_ms", "picture_ms") for p in _SPREAD))
                for way in (disk, host)
            ),
        ),
        "",
        f"The first load, which reads the disk and writes and compares the copies, took"
        f" {loads['first_load_ms']:.0f} ms. A picture from shared pages takes {ratio:.3f} of the time (p50).",
        "",
        *(_memory(result["memory"]) if result["memory"] else []),
        host_line(result),
    ]
    return "\n".join([*lines, ""])


def _memory(rows: list[dict[str, Any]]) -> list[str]:
    return [
        "What workers hold of memory, each page in parts by how many processes share it (PSS), when all hold"
        " every stage and have run it:",
        "",
        *table(
            ("", "workers", "PSS of all, MB", "of it weights mapped, MB", "those mapped, each in full, MB"),
            (
                (
                    row["name"],
                    str(row["n_workers"]),
                    *(
                        f"{sum(row[field]) / _MB:.1f}"
                        for field in ("pss_bytes", "mapped_pss_bytes", "mapped_rss_bytes")
                    ),
                )
                for row in rows
            ),
        ),
        "",
    ]


_SPREAD = ("p20", "p50", "p80")
