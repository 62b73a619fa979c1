"""Nodes for the system tests: catalogues of tiny models, and gateways that serve them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from bench.node import GATEWAY, Node, NodeConfig
from pipelines.catalogue import Model, to_entry

LIES_FOLDER = "LIES_FOLDER"
"""The environment variable that tells `tests.system.lying_worker` where its lies are."""


def catalogue_file(folder: Path, name: str, model: Model) -> Path:
    """A catalogue with this one further model."""
    lines = [f"[{name}]"]
    for key, value in to_entry(model).items():
        if isinstance(value, dict):
            pairs = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{key} = {{{pairs}}}")
        elif value is not None:
            # TOML has no null, and leaving a field out is the same
            lines.append(f"{key} = {json.dumps(value)}")
    file = folder / f"{name}.toml"
    file.write_text("\n".join(lines) + "\n")
    msgspec.toml.decode(file.read_bytes())
    return file


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
