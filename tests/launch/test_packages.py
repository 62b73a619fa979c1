"""What the code imports is what pyproject.toml asks for: an environment has nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
SERVING = ("gateway", "kernels", "models", "pipelines", "planner", "wire", "worker")
OWN = frozenset({*SERVING, "bench", "tests"})


def plain(name: str) -> str:
    """A distribution's name as it is compared, without bounds and extras."""
    found = re.match(r"[\w.-]+", name)
    assert found, name
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported(folder: str) -> Iterator[tuple[str, Path]]:
    """The packages that are neither Python's nor ours, by who imports them."""
    for path in sorted((CHECKOUT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for package in {name.partition(".")[0] for name in names}:
                if package not in sys.stdlib_module_names and package not in OWN:
                    yield package, path.relative_to(CHECKOUT)


@pytest.mark.parametrize("folder", [*SERVING, "bench", "tests"])
def test_every_import_is_asked_for(folder: str) -> None:
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"]]
    if folder in ("bench", "tests"):
        asked += extras["bench"]
    if folder == "tests":
        asked += extras["test"]
    known = {plain(each) for each in asked}
    homes = packages_distributions()
    missing = {
        f"{path}: {package}"
        for package, path in imported(folder)
        if not known & {plain(home) for home in homes.get(package, [package])}
    }
    assert not missing


def test_what_is_not_asked_for_is_seen() -> None:
    assert ("torch", Path("kernels/attach.py")) in set(imported("kernels"))
    assert plain("triptych[bench]") == "triptych"
    assert plain("prometheus_client>=0.22") == "prometheus-client"
