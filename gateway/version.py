"""Which version this checkout is."""

from __future__ import annotations

import tomllib
from pathlib import Path

VERSION: str = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"][
    "version"
]
"""As `pyproject.toml` says: this is an application that runs from its checkout, installed or not."""
