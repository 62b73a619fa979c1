"""A catalogue file with one model."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from pipelines.catalogue import Model, to_entry


def catalogue_file(folder: Path, name: str, model: Model) -> Path:
    """NAME.toml in `folder`. Raises `OSError`, and `msgspec.DecodeError` if a name cannot be a TOML key."""
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
