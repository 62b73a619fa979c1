"""A model's profile for people: a line for each stage and shape, and how well unseen shapes are known."""

from __future__ import annotations

from collections.abc import Iterator

from planner.fit import Fit
from planner.measurements import Measurement, Measurements
from planner.profile import Profile

_HEAD = ("stage", "shape", "jobs", "ms", "ms a job", "peak MiB")


def lines(found: Measurements) -> list[str]:
    """The table; a loop's milliseconds are of one step."""
    rows = [_HEAD, *map(_row, _ordered(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    table = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [f"{found.model} on {found.device}", "", *table, "", *_stages(found), *fits(found)]


def fits(found: Measurements) -> list[str]:
    """How far each stage's fit is from a shape that it was not fitted to."""
    profile = Profile().with_measured(found)
    told = []
    for stage in dict.fromkeys(each.stage for each in found.measured):
        for guided, fit in sorted(profile.fits(found.device, found.model, stage).items(), reverse=True):
            if fit.worst_error is not None:
                told.append(f"{stage}{'' if guided else ' unguided'}: {_fit(fit)}")
    return told


def _fit(fit: Fit) -> str:
    assert fit.worst_error is not None
    assert fit.median_error is not None
    terms = ("ms", "ms a megapixel", "ms a megapixel squared")
    shown = [
        f"{1000 * value * 10 ** (6 * power):.4g} {terms[power]}"
        for power, value in enumerate(fit.coefficients)
        if value > 0
    ]
    return (
        f"fitted as {' + '.join(shown) or '0 ms'}; a shape left out is missed by"
        f" {fit.median_error:.0%} (median), {fit.worst_error:.0%} (worst)"
    )


def _stages(found: Measurements) -> Iterator[str]:
    for stage, n_bytes in found.weight_bytes.items():
        load = f", loaded in {found.load_s[stage]:.2f} s" if stage in found.load_s else ""
        yield f"{stage}: weights of {n_bytes / 2**20:.1f} MiB{load}"
    if found.resume_s is not None:
        yield f"pausing a loop and going on costs {1000 * found.resume_s:.1f} ms"


def _row(each: Measurement) -> tuple[str, ...]:
    shape = each.shape
    frames = f" x {shape.frames}" if shape.frames > 1 else ""
    return (
        each.stage,
        f"{shape.width_px}x{shape.height_px}{frames}{'' if shape.guided else ' unguided'}",
        str(each.batch),
        f"{1000 * each.seconds:.1f}",
        f"{1000 * each.seconds / each.batch:.1f}",
        "-" if each.peak_bytes is None else f"{each.peak_bytes / 2**20:.1f}",
    )


def _ordered(found: Measurements) -> list[Measurement]:
    stages = list(dict.fromkeys([*found.weight_bytes, *(each.stage for each in found.measured)]))

    def place(each: Measurement) -> tuple[int, int, int, bool]:
        return stages.index(each.stage), each.batch, each.shape.tokens, not each.shape.guided

    return sorted(found.measured, key=place)
