"""`python -m bench rivals`: every policy on every cell of a grid, the goals, and small grids of one thing."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import host
from bench.arrivals import PROCESSES
from bench.costs_l20 import VIEWS
from bench.rivals.grid import BOUND, MINUTES, STUDIES, Plan, main_plan
from bench.rivals.rows import COLUMNS, Row
from bench.rivals.runner import CannotGoOn, run_all
from bench.rivals_table import rivals, rows_of
from bench.simulate import EffectRefused
from bench.simulate.cell import UnknownPolicy, config_of
from bench.simulate_plot import draw_attainment
from planner.policies import POLICIES

RESULTS = Path(__file__).with_name("results")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench rivals",
        description="Simulates every policy on four models, four kinds of arrivals, four loads and three"
        " seeds, bounds what any could reach, and checks the goals. Each result is kept as it comes, in"
        " NAME.jsonl beside the others: the same command goes on where it was cut off.",
        epilog="exit codes: 0 simulated; 1 a policy asked for what cannot be done, or the file to go on in is"
        " of something else; 2 a wrong flag; 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--study", choices=tuple(STUDIES), help="a small grid instead, which varies one thing")
    add("--view", choices=VIEWS, default="resident", help="memory without a bound, or 48 GB")
    add("--nobody-drops", action="store_true", help="late work is served by every policy")
    add("--fastest-slo", action="store_true", help="deadlines from the fastest degree, not k*")
    add("--models", type=_names, metavar="M,...", help="(all)")
    add("--arrivals", type=_names, metavar="A,...", help="(all)")
    add("--loads", type=_floats, metavar="L,...", help="(all)")
    add(
        "--policies",
        type=_names,
        metavar="P,...",
        help="name, name:degree or name-part-... with parts off (all)",
    )
    add("--seeds", type=int, metavar="N", help="how many, from 0 (3; of a study 1)")
    add("--minutes-x", type=float, metavar="X", help="times the minutes of arrivals (1)")
    add("--processes", type=int, default=host.n_cores(), metavar="N", help="(the cores)")
    add("--name", help="of the files (rivals, with the view; or the study's)")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="where they go (bench/results)")
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    made = parser()
    flags = made.parse_args(argv)
    plan = _plan(flags)
    wrong = [name for name in plan.arrivals if name not in PROCESSES]
    wrong += [name for name in plan.models if name not in MINUTES]
    try:
        wrong += [policy for policy in plan.policies if config_of(policy).policy not in POLICIES]
    except UnknownPolicy as error:
        made.error(str(error))
    if wrong:
        made.error(f"unknown: {', '.join(wrong)}")
    name = flags.name or _name(flags)
    try:
        result = _run(plan, flags, flags.out / f"{name}.jsonl")
        _write(result, flags.out, name)
    except (CannotGoOn, EffectRefused, OSError) as error:
        print(f"rivals: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rivals: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _plan(flags: argparse.Namespace) -> Plan:
    if flags.study is not None:
        plan = STUDIES[flags.study]()
        worlds = tuple(
            replace(w, view=flags.view, nobody_drops=flags.nobody_drops, fastest_slo=flags.fastest_slo)
            for w in plan.worlds
        )
        plan = replace(plan, worlds=worlds)
    else:
        plan = main_plan(view=flags.view, nobody_drops=flags.nobody_drops, fastest_slo=flags.fastest_slo)
    given = {
        "models": flags.models,
        "arrivals": flags.arrivals,
        "loads": flags.loads,
        "policies": flags.policies,
        "n_seeds": flags.seeds,
        "minutes_x": flags.minutes_x,
    }
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _name(flags: argparse.Namespace) -> str:
    words = [f"rivals_{flags.study}" if flags.study else "rivals"]
    words += [flags.view] if flags.view != "resident" else []
    words += ["nobody_drops"] if flags.nobody_drops else []
    words += ["fastest_slo"] if flags.fastest_slo else []
    return "_".join(words)


def _run(plan: Plan, flags: argparse.Namespace, file: Path) -> dict[str, Any]:
    works = plan.works()
    label = {
        "plan": plan.name,
        "commit": host.commit(),
        "view": flags.view,
        "nobody_drops": flags.nobody_drops,
        "fastest_slo": flags.fastest_slo,
        "minutes": {model: plan.minutes(model) for model in plan.models},
    }
    load_before, began_s = os.getloadavg()[0], time.monotonic()

    def say(row: Row, n_left: int) -> None:
        seconds = time.monotonic() - began_s
        print(_line(row), f"{n_left} to come, {seconds / 60:.1f} min", sep="   ", file=sys.stderr, flush=True)

    rows = run_all(works, file, label, n_processes=flags.processes, on_row=say)
    return {
        "benchmark": "rivals",
        "question": plan.question,
        **label,
        "gpus": plan.worlds[0].n_gpus,
        "seeds": plan.n_seeds,
        "cpu": host.cpu_model(),
        "cores": host.n_cores(),
        "processes": flags.processes,
        "load_average": round(load_before, 2),
        "versions": host.versions(),
        "wall_s": time.monotonic() - began_s,
        "cpu_s": sum(row.cpu_s or 0.0 for row in rows),
        "columns": list(COLUMNS),
        "rows": [row.as_list() for row in rows],
    }


def _line(row: Row) -> str:
    where = f"{row.world} {row.model} {row.arrivals} {row.load:g} seed {row.seed}".strip()
    what = "out of memory" if row.is_too_large else f"{row.attainment:.4f} on time"
    mean = "" if row.mean_s is None else f", mean {row.mean_s:.1f} s"
    return f"{where:<34}{row.policy:<12}{what}{mean}, {row.cpu_s or 0.0:.1f} s of CPU"


def _write(result: dict[str, Any], folder: Path, name: str) -> None:
    raw, text, plot = (folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png"))
    rows = result.pop("rows")
    head = json.dumps(result, indent=1)[:-2]
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    raw.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', "utf-8")
    result["rows"] = rows
    shown = rivals(result)
    text.write_text(shown, "utf-8")
    draw_attainment(plot, _for_plot(rows_of(result)))
    print(f"{shown}\nwritten: {raw}, {text} and {plot}")


def _for_plot(rows: Sequence[Row]) -> dict[str, Any]:
    """A panel for each model and arrivals; of a study a line for each world and policy."""
    told: dict[str, list[dict[str, Any]]] = {"runs": [], "bounds": []}
    for row in rows:
        if row.is_too_large:
            continue
        line = {
            "models": [row.model],
            "arrivals": row.arrivals,
            "load": row.load,
            "policy": f"{row.world}: {row.policy}" if row.world else row.policy,
            "attainment": row.attainment,
        }
        told["bounds" if row.policy == BOUND else "runs"].append(line)
    return told


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
