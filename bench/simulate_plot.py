"""Plots of simulations, by matplotlib: attainment against load, and who held which stages over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from planner.types import StageKey

_COLOURS = ("#4c5fd7", "#1f9e89", "#f28e2b", "#c2255c", "#767b88", "#9467bd", "#8c6d31", "#17becf", "#e377c2")
_STYLES = ("-", "--", "-.")
"""Taken in turn once all colours are."""
_BOUND, _SOFT, _PAPER = "#22252d", "#767b88", "#ffffff"
_PANEL_IN, _DPI = 3.1, 120

Holdings = Sequence[tuple[float, Mapping[frozenset[StageKey], int]]]
"""From that second on, how many workers held which stages."""


def draw_attainment(file: Path, result: dict[str, Any]) -> None:
    """A panel for each of models and arrivals, a line for each policy and the bound; means over the seeds."""
    runs, bounds = result["runs"], result["bounds"]
    rows = list(dict.fromkeys("+".join(run["models"]) for run in runs))
    columns = list(dict.fromkeys(run["arrivals"] for run in runs))
    policies = list(dict.fromkeys(run["policy"] for run in runs))
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        size_in = (_PANEL_IN * len(columns) + 0.6, _PANEL_IN * 0.8 * len(rows) + 0.9)
        figure = Figure(figsize=size_in, dpi=_DPI, facecolor=_PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True)
        for (place, models), axes_row in zip(enumerate(rows), grid, strict=True):
            for arrivals, axes in zip(columns, axes_row, strict=True):
                for number, policy in enumerate(policies):
                    own = [run for run in _of(runs, models, arrivals) if run["policy"] == policy]
                    style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
                    _line(axes, own, policy, _COLOURS[number % len(_COLOURS)], style)
                _line(axes, _of(bounds, models, arrivals), "bound", _BOUND, ":")
                axes.grid(alpha=0.25)
                if place == 0:
                    axes.set_title(arrivals)
            axes_row[0].set_ylabel(f"{models}\n% on time")
        for axes in grid[-1]:
            axes.set_xlabel("load")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)), frameon=False)
        figure.savefig(file)


def draw_holdings(file: Path, title: str, holdings: Holdings, end_s: float) -> None:
    """Workers by the stages that they held, stacked over time."""
    kinds = sorted(
        {held for _, counts in holdings for held in counts}, key=lambda held: (-len(held), _name(held))
    )
    times_s = [at_s for at_s, _ in holdings] + [end_s]
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(9.0, 3.6), dpi=_DPI, facecolor=_PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        layers = [[counts.get(held, 0) for _, counts in holdings] for held in kinds]
        axes.stackplot(
            times_s,
            [[*layer, layer[-1]] for layer in layers],
            labels=[_name(held) for held in kinds],
            colors=[_COLOURS[number % len(_COLOURS)] for number in range(len(kinds))],
            step="post",
        )
        axes.set_title(title)
        axes.set_xlabel("seconds")
        axes.set_ylabel("workers")
        axes.set_xlim(times_s[0], max(end_s, times_s[0] + 1e-9))
        axes.margins(y=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=_SOFT)
        figure.savefig(file)


def _of(rows: Sequence[dict[str, Any]], models: str, arrivals: str) -> list[dict[str, Any]]:
    return [row for row in rows if ("+".join(row["models"]), row["arrivals"]) == (models, arrivals)]


def _line(axes: Any, rows: Sequence[dict[str, Any]], label: str, colour: str, style: str) -> None:
    loads = sorted({row["load"] for row in rows})
    if not loads:
        return
    at = [[100 * row["attainment"] for row in rows if row["load"] == load] for load in loads]
    means = [sum(values) / len(values) for values in at]
    axes.plot(
        loads, means, style, color=colour, label=label, marker=None if style == ":" else ".", linewidth=1.3
    )


def _name(held: frozenset[StageKey]) -> str:
    by_model: dict[str, list[str]] = {}
    for model, stage in sorted(held):
        by_model.setdefault(model, []).append(stage)
    return "; ".join(f"{model}: {'+'.join(stages)}" for model, stages in by_model.items()) or "nothing"
