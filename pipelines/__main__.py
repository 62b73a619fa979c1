"""`python -m pipelines names | list`: what the catalogue holds. Imports no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipelines.catalogue import Catalogue, load_catalogue
from pipelines.errors import PipelineError


def _table(catalogue: Catalogue) -> str:
    rows = [("model", "family", "size", "steps", "source")]
    for name in catalogue.names:
        model = catalogue[name]
        width_px, height_px = model.default_size_px
        rows.append((name, model.family, f"{width_px}x{height_px}", str(model.default_steps), model.source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="models", description="Show the models that can be served.")
    parser.add_argument("command", nargs="?", choices=("list", "names"), default="list")
    parser.add_argument(
        "--catalogue", type=Path, action="append", default=[], help="a further catalogue file"
    )
    arguments = parser.parse_args(argv)
    try:
        catalogue = load_catalogue(*arguments.catalogue)
    except PipelineError as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    print("\n".join(catalogue.names) if arguments.command == "names" else _table(catalogue))
    return 0


if __name__ == "__main__":
    sys.exit(main())
