"""Where a component comes from, and which files that is now.

The *place* is what a pipeline's config says: path, subfolder, variant, revision, with class and dtype. The
*name* is of the files that are there: another one as soon as a file was changed, the same one by whichever
path, or link, they are reached.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache


def place_of(spec: Any, source: str, dtype: torch.dtype) -> str:
    """`spec`: a diffusers `ComponentSpec`, read from `source`."""
    kind = f"{spec.type_hint.__module__}.{spec.type_hint.__qualname__}"
    return "|".join(map(str, (source, spec.subfolder, spec.variant, spec.revision, kind, dtype)))


def name_of(spec: Any, source: str, dtype: torch.dtype) -> str | None:
    """A file name; None if the component's files are not on this machine."""
    folder = _folder(source, spec.subfolder or "", spec.revision)
    if folder is None:
        return None
    kind = f"{spec.type_hint.__module__}.{spec.type_hint.__qualname__}"
    said = [f"{kind} {dtype} {spec.variant}"]
    for file in sorted(folder.iterdir()):
        if file.is_file():
            status = file.stat()
            where = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
            said.append(f"{file.name} {where}")
    return f"component-{hashlib.sha256(chr(10).join(said).encode()).hexdigest()[:32]}"


def _folder(source: str, subfolder: str, revision: str | None) -> Path | None:
    local = Path(source, subfolder)
    if local.is_dir():
        return local
    if Path(source).is_absolute():
        return None
    config = try_to_load_from_cache(source, str(Path(subfolder, "config.json")), revision=revision)
    return Path(config).parent if isinstance(config, str) else None
