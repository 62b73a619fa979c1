"""What the demo leaves in its folder, and what it prints at the end."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import host
from bench.contact_sheet import Section, Tile, write_sheet
from bench.demo import Demo, Phase
from bench.load import Result
from bench.stats import percentile
from bench.timeline import Panel, panel
from bench.timeline_plot import draw

_WAITS = ("queue", "wait_diffuse", "wait_decode")
_COLUMNS = ("queue", "encode", "diffuse", "decode", "total")
_PHASES = ("colocated", "split", "auto")
QUEUE_NOTE = (
    "queue: every wait for a worker, before the first stage and between stages; total: seen by the client"
)


def clear(out: Path) -> None:
    """Make the folder, and remove what an earlier demo left in it; other files stay."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("contact-sheet.png", "timeline.png", "report.json", "report.md"):
        (out / name).unlink(missing_ok=True)
    for phase in _PHASES:
        for file in (out / "pictures" / phase).glob("*.png"):
            file.unlink()
    for file in (out / "profiles").glob("*.json"):
        file.unlink()


def write(demo: Demo, out: Path) -> tuple[Path, ...]:
    """Everything but journals and logs, which are there already. Returns what to look at first."""
    for phase in demo.phases:
        folder = out / "pictures" / phase.name
        folder.mkdir(parents=True, exist_ok=True)
        for result in phase.results:
            for index, png in enumerate(result.pictures):
                (folder / _file_name(result, index)).write_bytes(png)
    where = f"{demo.model} on {' and '.join(demo.workers)}, {host.cpu_model()}"
    files = tuple(out / name for name in ("contact-sheet.png", "timeline.png", "report.md", "report.json"))
    section = _section(demo)
    write_sheet(files[0], "Triptych", where, [section] if section.tiles else [])
    draw(files[1], "Who runs which stage, and when", where, [_panel(phase) for phase in demo.phases])
    files[2].write_text(_markdown(demo), "utf-8")
    files[3].write_text(json.dumps(_as_json(demo), indent=1) + "\n", "utf-8")
    return files


def show(demo: Demo, console: Console) -> None:
    """Tables, what changed, and the checks."""
    for phase in demo.phases[:2]:
        table = Table(title=phase.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for header in ("#", "prompt", "n", "steps"):
            table.add_column(header, justify="left" if header == "prompt" else "right")
        for header in _COLUMNS:
            table.add_column(f"{header} ms", justify="right")
        table.add_column("deadline", justify="right")
        for result in phase.results:
            table.add_row(*_row(result))
        console.print()
        console.print(table)
    console.print(QUEUE_NOTE, style="dim")
    auto = demo.phases[2]
    console.print(f"\n[bold]{auto.title}[/bold]")
    for line in _shift_lines(demo):
        console.print(f"  {line}", markup=False)
    console.print()
    for check in demo.checks:
        verdict = "[green]ok[/green]  " if check.passed else "[bold red]FAIL[/bold red]"
        console.print(f"{verdict} ", end="")
        console.print(check.text, markup=False)


def _row(result: Result) -> tuple[str, ...]:
    request = result.request
    cells = [str(result.index + 1), request.prompt, str(request.n), str(request.steps)]
    cells += [f"{ms:.0f}" for ms in times_ms(result).values()]
    return (*cells, _deadline(result))


def times_ms(result: Result) -> dict[str, float]:
    """The table's columns, in ms; of the slowest picture where there are several."""
    parts = result.timing_ms
    return {
        "queue": sum(parts.get(part, 0.0) for part in _WAITS),
        **{part: parts.get(part, 0.0) for part in ("encode", "diffuse", "decode")},
        "total": result.latency_s * 1000,
    }


def _deadline(result: Result) -> str:
    if result.deadline_met is None:
        return "none"
    return f"{(result.request.slo_ms or 0) / 1000:.1f} s {'met' if result.deadline_met else 'missed'}"


def _shift_lines(demo: Demo) -> Iterator[str]:
    auto = demo.phases[2]
    for shape in demo.shapes:
        size = f"{shape.width_px}x{shape.height_px}"
        done = [result for result in auto.results if result.request.size == size and result.ok]
        p50 = f", total p50 {percentile([r.latency_s * 1000 for r in done], 50):.0f} ms" if done else ""
        yield f"{len(done)} requests of {size}{p50}"
    for change in auto.changes:
        yield f"at {change.at_s - auto.start_s:.1f} s {change.places}"
        for reason in dict.fromkeys(f"{effect.reason}: {effect.detail}" for effect in change.effects):
            yield f"    {reason}"


def _file_name(result: Result, index: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", result.request.prompt.lower()).strip("-")[:40]
    return f"{result.index + 1:03d}-{words}-seed{result.request.seed + index}.png"


def _labels(phase: Phase) -> dict[str, str]:
    """Job id -> request number, with a letter where there are several pictures."""
    labels: dict[str, str] = {}
    for result in phase.results:
        for index in range(result.request.n):
            letter = chr(ord("a") + index) if result.request.n > 1 else ""
            labels[f"{result.request_id}-{index}"] = f"{result.index + 1}{letter}"
    return labels


def _panel(phase: Phase) -> Panel:
    took_s = phase.end_s - phase.start_s
    n_pictures = sum(len(result.pictures) for result in phase.results)
    return panel(
        f"{phase.title}  ·  {n_pictures} pictures in {took_s:.1f} s",
        phase.journal,
        _labels(phase),
        start_s=phase.start_s,
        changes=phase.changes,
    )


def _section(demo: Demo) -> Section:
    """Of the load that both placements got; the last phase's sizes are not what a model draws best."""
    same = next(check for check in demo.checks if check.name == "same pictures")
    return Section(
        title="Co-located and split",
        note="the same bytes from both" if same.passed else "THE TWO DIFFER; shown: co-located",
        tiles=tuple(_tiles(demo.phases[0].results)),
    )


def _tiles(results: tuple[Result, ...] | list[Result]) -> Iterator[Tile]:
    for result in results:
        request = result.request
        for index, png in enumerate(result.pictures):
            detail = f"seed {request.seed + index} · {request.steps} steps"
            yield Tile(png=png, caption=request.prompt, detail=f"{detail} · {result.latency_s:.1f} s")


def _markdown(demo: Demo) -> str:
    lines = ["# Triptych demo", "", f"{demo.model} on {', '.join(demo.workers)}, {host.cpu_model()}."]
    lines += ["", *(f"- {'ok' if check.passed else 'FAIL'}: {check.text}" for check in demo.checks)]
    lines += ["", "![pictures](contact-sheet.png)", "", "![timeline](timeline.png)"]
    headers = ("#", "prompt", "n", "steps", *(f"{column} ms" for column in _COLUMNS), "deadline")
    for phase in demo.phases:
        lines += ["", f"## {phase.title}", ""]
        if phase.name == "auto":
            lines += [*(f"- {line.strip()}" for line in _shift_lines(demo)), ""]
        lines += [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
        lines += [f"| {' | '.join(_row(result))} |" for result in phase.results]
    return "\n".join([*lines, "", f"{QUEUE_NOTE}.", ""])


def _as_json(demo: Demo) -> dict[str, Any]:
    return {
        "model": demo.model,
        "workers": demo.workers,
        "commit": host.commit(),
        "cpu": host.cpu_model(),
        "versions": host.versions(),
        "took_s": round(demo.took_s, 3),
        "worker_memory_bytes": demo.worker_memory_bytes,
        "passed": demo.passed,
        "checks": {check.name: {"passed": check.passed, "text": check.text} for check in demo.checks},
        "phases": [_phase_as_json(phase) for phase in demo.phases],
    }


def _phase_as_json(phase: Phase) -> dict[str, Any]:
    totals_ms = [result.latency_s * 1000 for result in phase.results if result.ok]
    return {
        "name": phase.name,
        "placement": phase.placement,
        "took_s": round(phase.end_s - phase.start_s, 3),
        "total_p50_ms": round(statistics.median(totals_ms), 1) if totals_ms else None,
        "changes": [
            {
                "at_s": round(change.at_s - phase.start_s, 3),
                "homes": change.homes,
                "reason": change.reason,
                "detail": change.detail,
                "effects": [
                    {"effect": e.effect, "worker": e.worker, "stages": e.stages, "reason": e.reason}
                    for e in change.effects
                ],
            }
            for change in phase.changes
        ],
        "requests": [_result_as_json(result) for result in phase.results],
    }


def _result_as_json(result: Result) -> dict[str, Any]:
    return {
        "number": result.index + 1,
        **result.request.body(),
        "status": result.status,
        "error": result.error,
        "deadline_met": result.deadline_met,
        "total_ms": round(result.latency_s * 1000, 1),
        "server_timing_ms": result.timing_ms,
        "files": [_file_name(result, index) for index in range(len(result.pictures))],
    }
