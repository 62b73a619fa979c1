"""`python -m bench simulate`: policies compared on a simulated fleet."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bench import host
from bench.arrivals import PROCESSES, TraceUnreadable, read_trace
from bench.costs import Costs
from bench.costs_l20 import MODELS, VIEWS, l20
from bench.costs_measured import ProfileUnreadable, measured_costs
from bench.simulate import EffectRefused, FleetConfig
from bench.simulate.cell import Cell, UnknownPolicy, config_of, run_cell
from bench.simulate.save import Recorder
from bench.simulate_plot import draw_attainment, draw_holdings
from bench.simulate_table import simulate
from planner.policies import POLICIES

QUESTION = "How much of a load is on time, and how fast, under each policy on the same simulated GPUs?"
_LOADS = "0.6,0.8,1.0,1.2"
_POLICIES = tuple(name for name in POLICIES if name != "fcfs")
"""All: fcfs is b1 by another name."""
_KINDS = "even,poisson,burst,shift"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="bench simulate",
        description="Runs policies of planner/policies on a simulated fleet under a virtual clock, and bounds"
        " what any policy could reach.",
        epilog="exit codes: 0 simulated; 1 a policy asked for what cannot be done, or a file cannot be read"
        " or written; 2 a wrong flag",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--profile", type=Path, metavar="FILE", help="a measured model instead of the L20's")
    made.add_argument("--models", type=_names, default=MODELS, metavar="M,...", help="(default: all)")
    made.add_argument(
        "--together", action="store_true", help="all models on one fleet, not one after another"
    )
    made.add_argument("--arrivals", type=_names, default=_names(_KINDS), metavar="A,...", help=f"({_KINDS})")
    made.add_argument("--loads", type=_floats, default=_floats(_LOADS), metavar="L,...", help=f"({_LOADS})")
    made.add_argument(
        "--policies",
        type=_names,
        default=_POLICIES,
        metavar="P,...",
        help="name, name:degree or name-part-... with parts off (all)",
    )
    made.add_argument("--seeds", type=int, default=1, metavar="N", help="how many, from 0 (1)")
    made.add_argument("--minutes", type=float, default=30.0, metavar="T", help="of arrivals (30)")
    made.add_argument("--gpus", type=int, default=128, metavar="N", help="(128)")
    made.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="(8)")
    made.add_argument("--view", choices=VIEWS, default="resident", help="memory without a bound, or 48 GB")
    made.add_argument("--fastest-slo", action="store_true", help="deadlines from the fastest degree, not k*")
    made.add_argument("--nobody-drops", action="store_true", help="late work is served by every policy")
    made.add_argument("--encode-x", type=float, default=1.0, metavar="X", help="times the encode's seconds")
    made.add_argument("--decode-x", type=float, default=1.0, metavar="X", help="times the decode's seconds")
    made.add_argument("--resume-ms", type=float, metavar="MS", help="of going on from a checkpoint (40)")
    made.add_argument("--profile-error", type=float, default=0.0, metavar="E", help="0.2: up to 20 %% off")
    made.add_argument("--noise", type=float, default=0.0, metavar="S", help="of durations (log-normal)")
    made.add_argument("--mean-life-s", type=float, metavar="S", help="of workers, which then fail")
    made.add_argument(
        "--trace", type=Path, metavar="FILE", help="arrivals as JSON lines; see bench/arrivals.py"
    )
    made.add_argument("--no-bound", action="store_true", help="leave the bound out")
    made.add_argument("--processes", type=int, default=host.n_cores(), metavar="N", help="(the cores)")
    made.add_argument("--save", type=Path, metavar="FILE", help="the events of one simulation, as a journal")
    made.add_argument("--name", default="simulate", help="of the files that are written")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="JSON, tables and plots; without it only printed"
    )
    return made


def main(argv: list[str]) -> int:
    """The exit code."""
    made = parser()
    flags = made.parse_args(argv)
    wrong = [name for name in flags.arrivals if name not in PROCESSES]
    wrong += [name for name in flags.models if name not in MODELS]
    try:
        wrong += [policy for policy in flags.policies if config_of(policy).policy not in POLICIES]
        if wrong:
            made.error(f"unknown: {', '.join(wrong)}")
        cells = list(_cells(flags))
        if flags.save is not None:
            return _saved(flags, cells)
        result = {**_circumstances(flags), **_simulated(flags, cells)}
        print("\n" + simulate(result))
        if flags.out is not None:
            _write(result, flags.out, flags.name)
    except UnknownPolicy as error:
        made.error(str(error))
    except (EffectRefused, ProfileUnreadable, TraceUnreadable, OSError) as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 1
    return 0


def _cells(flags: argparse.Namespace) -> Iterator[Cell]:
    for costs in _tables(flags):
        costs = costs.scaled({"text_encoder": flags.encode_x, "decode": flags.decode_x})
        if flags.resume_ms is not None:
            costs = costs.with_resume(flags.resume_ms / 1000)
        fleet = FleetConfig(
            n_gpus=flags.gpus,
            gpus_per_node=flags.gpus_per_node,
            warm=costs.memory_bytes is None,
            noise=flags.noise,
            mean_life_s=flags.mean_life_s,
        )
        if flags.trace is not None:
            yield _cell(flags, costs, fleet, "trace", 1.0, 0)
            continue
        for process, load, seed in product(flags.arrivals, flags.loads, range(flags.seeds)):
            yield _cell(flags, costs, fleet, process, load, seed)


def _tables(flags: argparse.Namespace) -> list[Costs]:
    if flags.profile is not None:
        return [measured_costs(flags.profile)]
    if flags.together:
        return [l20(*flags.models, view=flags.view)]
    return [l20(model, view=flags.view) for model in flags.models]


def _cell(
    flags: argparse.Namespace, costs: Costs, fleet: FleetConfig, process: str, load: float, seed: int
) -> Cell:
    trace = None
    if flags.trace is not None:
        trace = tuple(read_trace(flags.trace, costs, fastest_slo=flags.fastest_slo))
    return Cell(
        costs=costs,
        process=process,
        load=load,
        span_s=60 * flags.minutes,
        seed=seed,
        fleet=replace(fleet, seed=seed),
        fastest_slo=flags.fastest_slo,
        nobody_drops=flags.nobody_drops,
        profile_error=flags.profile_error,
        trace=trace,
    )


def _simulated(flags: argparse.Namespace, cells: Sequence[Cell]) -> dict[str, Any]:
    work = [(cell, policy) for cell in cells for policy in flags.policies]
    # it is proved for the seconds that the costs say
    bounded = [] if flags.no_bound or flags.noise else list(cells)
    began_s = time.monotonic()
    runs: list[dict[str, Any]] = []
    # spawned: a forked child would inherit whatever threads and locks this process has
    with multiprocessing.get_context("spawn").Pool(flags.processes) as pool:
        bounds = pool.imap(_bound, bounded)
        for row in pool.imap(_run, work):
            runs.append(row)
            print(_line(row), file=sys.stderr, flush=True)
        found = list(bounds)
    names = sorted({cell.costs.name for cell in cells})
    return {"costs": names, "runs": runs, "bounds": found, "wall_s": time.monotonic() - began_s}


def _run(work: tuple[Cell, str]) -> dict[str, Any]:
    cell, policy = work
    began_s = time.thread_time()
    try:
        row = run_cell(cell, policy)
    except EffectRefused as error:
        raise EffectRefused(f"{policy} on {cell.label()}: {error}") from error
    return {**row, "cpu_s": time.thread_time() - began_s}


def _bound(cell: Cell) -> dict[str, Any]:
    return {**cell.label(), **cell.bounded()}


def _saved(flags: argparse.Namespace, cells: Sequence[Cell]) -> int:
    if len(cells) != 1 or len(flags.policies) != 1:
        print(
            "simulate: --save is for one model, one kind of arrivals, load, seed and policy", file=sys.stderr
        )
        return 2
    recorder = Recorder()
    row = run_cell(cells[0], flags.policies[0], recorder)
    recorder.write(flags.save)
    plot = flags.save.with_suffix(".png")
    title = f"{'+'.join(row['models'])}, {row['arrivals']} at {row['load']}, {row['policy']}"
    draw_holdings(plot, title, recorder.holdings, row["makespan_s"])
    print(f"{_line(row)}\nwritten: {flags.save} and {plot}")
    return 0


def _line(row: dict[str, Any]) -> str:
    served = row["served"]
    mean, p95 = (f"{served[q]:.1f}" if served[q] is not None else "-" for q in ("mean", "p95"))
    return (
        f"{'+'.join(row['models']):<13}{row['arrivals']:<9}{row['load']:<5}seed {row['seed']}"
        f"  {row['policy']:<14}{row['attainment']:.4f} on time, mean {mean} s, p95 {p95} s,"
        f" {100 * row['dropped_share']:.1f} % not served"
    )


def _circumstances(flags: argparse.Namespace) -> dict[str, Any]:
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(flags).items()
        if key not in {"out", "save", "name", "processes"}
    }
    return {
        "benchmark": "simulate",
        "question": QUESTION,
        "commit": host.commit(),
        "cpu": host.cpu_model(),
        "cores": host.n_cores(),
        "processes": flags.processes,
        "load_average": round(os.getloadavg()[0], 2),
        "versions": host.versions(),
        "settings": settings,
    }


def _write(result: dict[str, Any], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    raw, table, plot = (folder / f"{name}{suffix}" for suffix in (".json", ".md", ".png"))
    raw.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    table.write_text(simulate(result), "utf-8")
    draw_attainment(plot, result)
    print(f"written: {raw}, {table} and {plot}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
