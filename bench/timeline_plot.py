"""Draws timelines with matplotlib: a panel per phase, a lane per worker, a block per stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch

from bench.timeline import WARM_UP, Block, HandOver, Mark, Panel

COLOURS = {"encode": "#1f9e89", "diffuse": "#4c5fd7", "decode": "#f28e2b", WARM_UP: "#c9ccd3"}
_INK, _SOFT, _LANE, _PAPER = "#22252d", "#767b88", "#eef0f4", "#ffffff"
_MARK = "#c2255c"
_WIDTH_IN, _DPI = 15.0, 150
_LANE_HEIGHT_IN, _HEAD_IN, _FOOT_IN, _MARKS_IN = 0.72, 0.62, 0.34, 0.3
_LEFT_IN, _RIGHT_IN = 0.95, 0.25
_BLOCK_HEIGHT = 0.6
_MIN_BLOCK_IN = 0.022
_LABEL_IN_PER_CHAR = 0.085


def draw(file: Path, title: str, subtitle: str, panels: Sequence[Panel]) -> None:
    """Write `panels` below one another to the PNG `file`."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "hatch.linewidth": 0.5}):
        heights_in = [_panel_height_in(panel) for panel in panels]
        top_in = 1.1
        figure = Figure(figsize=(_WIDTH_IN, top_in + sum(heights_in) + 0.25), dpi=_DPI, facecolor=_PAPER)
        FigureCanvasAgg(figure)
        total_in = figure.get_figheight()
        _text(figure, _LEFT_IN - 0.55, total_in - 0.4, title, size=19, weight="bold", color=_INK)
        _text(figure, _LEFT_IN - 0.55, total_in - 0.72, subtitle, size=10.5, color=_SOFT)
        _legend(figure, panels, total_in)
        y_in = total_in - top_in
        for panel, height_in in zip(panels, heights_in, strict=True):
            _draw_panel(figure, panel, y_in, _time_span_s(panel, panels))
            y_in -= height_in
        figure.savefig(file)


def _time_span_s(panel: Panel, panels: Sequence[Panel]) -> float:
    """Panels of the same load share a scale, so that their lengths compare; a shift has its own."""
    comparable = [other.end_s for other in panels if bool(other.marks) == bool(panel.marks)]
    return max(0.001, *comparable) * 1.012


def _panel_height_in(panel: Panel) -> float:
    return _HEAD_IN + _LANE_HEIGHT_IN * len(panel.lanes) + _MARKS_IN * len(panel.marks) + _FOOT_IN


def _axes(figure: Any, top_in: float, height_in: float) -> Any:
    total_in = figure.get_figheight()
    width = (_WIDTH_IN - _LEFT_IN - _RIGHT_IN) / _WIDTH_IN
    box = (_LEFT_IN / _WIDTH_IN, (top_in - height_in) / total_in, width, height_in / total_in)
    axes = figure.add_axes(box, facecolor=_PAPER)
    axes.tick_params(length=0, colors=_SOFT, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _draw_panel(figure: Any, panel: Panel, top_in: float, span_s: float) -> None:
    _text(figure, _LEFT_IN - 0.55, top_in - 0.28, panel.title, size=12.5, weight="bold", color=_INK)
    for number, mark in enumerate(panel.marks):
        line = f"{_numbered(number)}  at {mark.at_s:.1f} s  {mark.text}  ({mark.reason})"
        _text(figure, _LEFT_IN - 0.55, top_in - 0.56 - _MARKS_IN * number, line, size=9.5, color=_MARK)
    lanes_top_in = top_in - _HEAD_IN + 0.14 - _MARKS_IN * len(panel.marks)
    axes = _axes(figure, lanes_top_in, _LANE_HEIGHT_IN * len(panel.lanes))
    n_lanes = len(panel.lanes)
    axes.set_xlim(0, span_s)
    axes.set_ylim(n_lanes - 0.5, -0.5)
    axes.set_yticks(range(n_lanes), panel.lanes)
    axes.tick_params(axis="y", colors=_INK, labelsize=10)
    for lane in range(n_lanes):
        axes.axhspan(lane - 0.44, lane + 0.44, color=_LANE, zorder=0, linewidth=0)
    in_per_s = (_WIDTH_IN - _LEFT_IN - _RIGHT_IN) / span_s
    for block in panel.blocks:
        _draw_block(axes, block, in_per_s)
    for handover in panel.handovers:
        _draw_handover(axes, handover)
    _draw_marks(axes, panel.marks)
    axes.xaxis.set_major_formatter(lambda at_s, _: f"{at_s:g} s")


def _draw_block(axes: Any, block: Block, in_per_s: float) -> None:
    width_s = max(block.end_s - block.start_s, _MIN_BLOCK_IN / in_per_s)
    is_warm_up = block.kind == WARM_UP
    axes.broken_barh(
        [(block.start_s, width_s)],
        (block.lane - _BLOCK_HEIGHT / 2, _BLOCK_HEIGHT),
        facecolor=COLOURS[block.kind],
        edgecolor="#ffffff",
        linewidth=0.35 if width_s * in_per_s > 4 * _MIN_BLOCK_IN else 0.0,
        hatch="////" if is_warm_up else None,
        zorder=2,
    )
    if block.label and width_s * in_per_s > _LABEL_IN_PER_CHAR * len(block.label) + 0.03:
        axes.text(
            block.start_s + width_s / 2,
            block.lane,
            block.label,
            ha="center",
            va="center",
            color="#ffffff",
            fontsize=9.5,
            fontweight="bold",
            zorder=4,
        )


def _draw_handover(axes: Any, handover: HandOver) -> None:
    """From the edge of one lane's block to the facing edge of the other's."""
    sign = 1 if handover.to_lane > handover.from_lane else -1
    axes.add_patch(
        FancyArrowPatch(
            (handover.from_s, handover.from_lane + sign * _BLOCK_HEIGHT / 2),
            (handover.to_s, handover.to_lane - sign * _BLOCK_HEIGHT / 2),
            arrowstyle="-|>,head_length=2.6,head_width=1.3",
            color=COLOURS[handover.kind],
            linewidth=0.9,
            shrinkA=0,
            shrinkB=0,
            zorder=3,
        )
    )


def _draw_marks(axes: Any, marks: Sequence[Mark]) -> None:
    for number, mark in enumerate(marks):
        axes.axvline(mark.at_s, color=_MARK, linewidth=1.3, zorder=5)
        axes.annotate(
            _numbered(number),
            (mark.at_s, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="center",
            fontsize=13,
            color=_MARK,
            zorder=6,
            annotation_clip=False,
            bbox={"boxstyle": "circle,pad=0.02", "facecolor": _PAPER, "edgecolor": "none"},
        )


def _legend(figure: Any, panels: Sequence[Panel], total_in: float) -> None:
    kinds = [kind for kind in COLOURS if any(block.kind == kind for p in panels for block in p.blocks)]
    handles = [Patch(facecolor=COLOURS[k], hatch="////" if k == WARM_UP else None, label=k) for k in kinds]
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - _RIGHT_IN / _WIDTH_IN, 1 - 0.2 / total_in),
        ncols=len(kinds),
        frameon=False,
        fontsize=10.5,
        handlelength=1.1,
        handleheight=1.1,
        columnspacing=1.4,
    )


def _text(figure: Any, x_in: float, y_in: float, text: str, **style: Any) -> None:
    figure.text(x_in / _WIDTH_IN, y_in / figure.get_figheight(), text, va="center", **style)


def _numbered(number: int) -> str:
    """A circled digit; after nine a plain number."""
    return chr(ord("①") + number) if number < 9 and math.isfinite(number) else str(number + 1)
