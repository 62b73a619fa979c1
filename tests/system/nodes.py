"""Nodes for the system tests: gateways that serve tiny models."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.node import GATEWAY, Node, NodeConfig

LIES_FOLDER = "LIES_FOLDER"
"""The environment variable that tells `tests.system.lying_worker` where its lies are."""


def cpu_node(
    folder: Path, model: str, n_workers: int, *flags: str, command: tuple[str, ...] = GATEWAY
) -> Node:
    """A gateway over `n_workers` CPU workers of one thread, not started yet. Log and journal go to `folder`.

    It measures nothing unless `flags` say so. Pictures are compared, whose bits may depend on the threads.
    """
    config = NodeConfig(
        name="gateway",
        folder=folder,
        model=model,
        workers=("--cpu", str(n_workers)),
        flags=("--threads", "1", "--profile", "off", *flags),
    )
    return Node(config, command=command)


def lying(folder: Path) -> tuple[str, ...]:
    """The command of a gateway whose workers lie as prompts and files in `folder` say."""
    return (sys.executable, "-m", "tests.system.lying_gateway", str(folder))
