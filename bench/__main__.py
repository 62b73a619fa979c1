"""`python -m bench COMMAND`: each shows or measures one thing; without a command it lists them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

_COMMANDS = {
    "batching": (
        "bench.batching_command",
        "pictures a second in batches, and how exact they are",
    ),
    "chaos": ("bench.chaos_command", "a load on a node whose workers are killed and hang: nothing is lost"),
    "checkpoints": ("bench.checkpoints_command", "what a checkpoint, a pause and a resume cost"),
    "decisions": ("bench.decisions_command", "how long one decision of the planner takes"),
    "demo": (
        "bench.demo_command",
        "three ways to place a model's stages on two workers, shown with pictures",
    ),
    "gpu-node": (
        "bench.gpu_node_command",
        "a node on one GPU with SD3-medium's architecture and random weights",
    ),
    "host-weights": (
        "bench.host_weights_command",
        "one host copy of weights: time of a load, memory of a node",
    ),
    "kernels": ("bench.kernels_command", "kernels against torch's and diffusers' own paths"),
    "kernel-code": ("bench.kernel_code_command", "the kernels compiled for a GPU that need not be here"),
    "gateway-cost": ("bench.gateway_cost_command", "processor time of the gateway per request, by part"),
    "overhead": ("bench.overhead_command", "what serving adds to a plain loop over the same pipeline"),
    "parity": ("bench.parity_command", "a live run and its simulation, and its decisions made again"),
    "policies": ("bench.policies_command", "policies and parts of the planner on one load, on real workers"),
    "replay": ("bench.replay_command", "a recorded gateway's decisions, made again and compared"),
    "rivals": ("bench.rivals_command", "every policy on a grid of simulated cells, and the goals"),
    "soak": ("bench.soak_command", "a rising load, then none: what a node holds afterwards"),
    "render": ("bench.render", "tables from raw results"),
    "timeline": ("bench.timeline_command", "a journal as a picture: who ran which stage when"),
    "simulate": ("bench.simulate_command", "policies compared on a simulated fleet, and a bound on any"),
}


def _help() -> str:
    lines = [f"  {name:<14}{text}" for name, (_, text) in _COMMANDS.items()]
    commands = "\n".join(lines)
    return f"usage: bench COMMAND [flags]\n\n{commands}\n\nbench COMMAND --help tells a command's flags."


def main(argv: list[str] | None = None) -> int:
    """The exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(_help())
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        print(_help(), file=sys.stderr)
        return 2
    # each command imports what it needs: the demo has no use for torch
    run: Callable[[list[str]], int] = import_module(_COMMANDS[arguments[0]][0]).main
    return run(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
