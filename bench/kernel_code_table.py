"""The tables of `python -m bench kernel-code`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.markdown import host_line, table


def kernel_code(result: dict[str, Any]) -> str:
    """What is shipped by GPU, then what the tuner tries."""
    rows = result["rows"]
    lines = ["# Kernels as compiled", "", result["question"], "", *_legend(), ""]
    for arch, device in result["devices"].items():
        for is_shipped, title in ((True, "as shipped"), (False, "what the tuner tries besides")):
            own = [row for row in rows if row["arch"] == int(arch) and row["is_shipped"] == is_shipped]
            if own:
                lines += [f"## {device} (sm_{arch}), {title}", "", _summary(own), "", *_table(own), ""]
    return "\n".join([*lines, f"Triton {result['triton']}. {host_line(result)}", ""])


def _legend() -> list[str]:
    return [
        "No GPU was used: this is what the code is, not how fast it runs. *Settings*: queries and keys"
        " of a block, warps, stages, descriptors, specialised, persistent. *Registers* and *spilled*"
        " bytes of a thread; *shared* KiB of a program; *warps* of a multiprocessor's 64 that fit at"
        " once. Instructions as they stand in the code: *wgmma* (Hopper's matrix products), *mma* (those"
        " before), *copies* by the tensor copy engine.",
    ]


def _summary(rows: list[dict[str, Any]]) -> str:
    n_failed = sum(bool(row["failed"]) for row in rows)
    n_large = sum(not row["failed"] and not row["warps_resident"] for row in rows)
    n_spilled = sum(row["spilled_bytes"] > 0 for row in rows)
    return (
        f"{len(rows)} kernels: {n_failed} do not compile, {n_large} do not fit into shared memory,"
        f" {n_spilled} spill."
    )


def _table(rows: list[dict[str, Any]]) -> list[str]:
    headers = (
        "call",
        "kernel",
        "settings",
        "registers",
        "spilled",
        "shared",
        "warps",
        "wgmma",
        "mma",
        "copies",
        "compile s",
    )
    return table(headers, _cells(rows))


def _cells(rows: list[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    for row in rows:
        settings = " ".join(map(str, row["settings"])) or "-"
        if row["failed"]:
            yield (row["call"], row["failed"], settings, *("-" for _ in range(8)))
            continue
        yield (
            row["call"],
            row["kernel"],
            settings,
            f"{row['registers']}",
            f"{row['spilled_bytes']}",
            f"{row['shared_bytes'] / 1024:.0f}",
            f"{row['warps_resident']}",
            f"{row['wgmma']}",
            f"{row['mma']}",
            f"{row['bulk_copies']}",
            f"{row['compile_s']:.1f}",
        )
