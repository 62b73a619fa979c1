"""The tables of `python -m bench kernels`."""

from __future__ import annotations

from typing import Any

from bench.kernels.goals import median_s, ratio, verdicts
from bench.kernels.rows import Row
from bench.markdown import host_line, table
from bench.stats import percentile

_BASE = {"attention": "torch", "ops": "torch", "decode": "diffusers", "denoise": "off", "cpu": "diffusers"}
_TITLES = {
    "attention": "Attention, bfloat16, one picture or clip",
    "ops": "Small ops, bfloat16",
    "decode": "Decodes of the full-size autoencoder of SD3 and Flux, bfloat16, random weights",
    "denoise": "One step at 1024 px, bfloat16, random weights",
}
NO_GPU = (
    "No GPU was at hand: nothing was measured."
    " `./launch.sh bench kernels` on a machine with one fills this in."
)


def kernels(result: dict[str, Any]) -> str:
    """What was measured on a GPU, by section, with the goals."""
    rows = [Row(**row) for row in result["rows"]]
    lines = ["# Kernels", "", result["question"], ""]
    if not rows:
        return "\n".join([*lines, NO_GPU, ""])
    ceilings = _ceilings(rows)
    lines += [
        "Times are medians of turns, with p20 and p80; a ratio says how many times as fast as the first"
        " variant. The roofline's share is the least time that bytes and products need at the ceilings of the"
        f" same run, over the median: {_told_ceilings(ceilings)}.",
        "",
        *table(("goal", "", ""), ((v.goal, _MET[v.met], v.told) for v in verdicts(rows))),
        "",
    ]
    for section, title in _TITLES.items():
        of_section = [row for row in rows if row.section == section]
        if of_section:
            lines += [f"## {title}", "", *_section(of_section, _BASE[section], ceilings), ""]
    return "\n".join([*lines, *_hosts(rows), f"Commit {result['commit']}.", ""])


def kernels_cpu(result: dict[str, Any]) -> str:
    """The decoder's form for a CPU."""
    rows = [Row(**row) for row in result["rows"]]
    lines = [
        "# A decoder's form for a CPU",
        "",
        result["question"],
        "",
        f"{result['model']}, one picture, processor time, {result['n']} decodes each way in turns."
        " Channels-last, SiLU and sums in place, upsampling folded into the convolution behind it; float32."
        " The largest difference is of pixels in -1..1: it is another picture in its last bits.",
        "",
        *_section(rows, _BASE["cpu"], {}),
        "",
        host_line(result),
    ]
    return "\n".join([*lines, ""])


_MET = {True: "met", False: "missed", None: "open"}


_HEADERS = ("", "variant", "ms p50", "p20", "p80", "ratio", "roofline", "peak, MB", "how exact")


def _section(rows: list[Row], base: str, ceilings: dict[str, float]) -> list[str]:
    """Without the columns that nobody filled."""
    cells = [cell for row in rows for cell in _cells(row, base, ceilings)]
    used = [number for number in range(len(_HEADERS)) if any(cell[number] for cell in cells)]
    kept = [tuple(cell[number] for number in used) for cell in cells]
    return table(tuple(_HEADERS[number] for number in used), kept)


def _cells(row: Row, base: str, ceilings: dict[str, float]) -> list[tuple[str, ...]]:
    made = []
    for variant, times in row.times_s.items():
        spread = (f"{1000 * percentile(times, q):.3g}" for q in (50, 20, 80))
        faster = ratio(row, variant, base)
        exact = row.quality.get(variant)
        peak = row.peak_bytes.get(variant)
        made.append(
            (
                row.name,
                variant,
                *spread,
                "" if faster is None else f"{faster:.2f}",
                _share(row, variant, ceilings),
                f"{peak / 1e6:.0f}" if peak else "",
                "" if exact is None else f"{exact:.3g} {row.quality_unit}",
            )
        )
    made += [(row.name, variant, "", "", "", "", "", "", why) for variant, why in row.failed.items()]
    return made


def _ceilings(rows: list[Row]) -> dict[str, float]:
    """Bytes and products a second, the best that was seen."""
    made: dict[str, float] = {}
    for row in rows:
        if row.section == "ceilings" and (seconds := median_s(row, row.name)) is not None:
            made[row.name] = max(made.get(row.name, 0.0), (row.n_bytes or row.n_flop) / seconds)
    return made


def _share(row: Row, variant: str, ceilings: dict[str, float]) -> str:
    seconds = median_s(row, variant)
    if seconds is None or not row.n_bytes or not {"copy", "matmul"} <= ceilings.keys():
        return ""
    least_s = max(row.n_bytes / ceilings["copy"], row.n_flop / ceilings["matmul"])
    return f"{least_s / seconds:.2f}"


def _told_ceilings(ceilings: dict[str, float]) -> str:
    copied, product = ceilings.get("copy"), ceilings.get("matmul")
    if copied is None or product is None:
        return "not measured"
    return f"{copied / 1e12:.2f} TB/s copied, {product / 1e12:.0f} TFLOP/s in bfloat16"


def _hosts(rows: list[Row]) -> list[str]:
    told = {", ".join(f"{key} {value}" for key, value in row.host.items()) for row in rows}
    return [f"Measured on: {host}." for host in sorted(told)] + [""]
