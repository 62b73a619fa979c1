"""Copies of what a model has beside weights (configs, tokenizers, schedulers), for when its folder is gone.

A worker that was started again builds a model's pipeline anew. With these and the host copies of the weights
it needs nothing of the model's folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from pathlib import Path

from worker.host_folder import HostFolder

log = logging.getLogger(__name__)

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".onnx_data", ".msgpack", ".h5"}
_MOST_BYTES = 128 * 2**20
"""Of one model. A published one has up to some tens of MB beside its weights, most of it tokenizers."""


class HostSources:
    """Models' folders by their copies. Of a model on a hub nothing is copied: the hub's cache has it."""

    def __init__(self, host: HostFolder | None) -> None:
        self._host = host
        self._originals: dict[str, str] = {}

    def open(self, source: str) -> str:
        """The folder to read a model from: `source`, or its copy if it is gone. Copies it if it is there."""
        if self._host is None or not Path(source).is_absolute():
            return source
        copy = self._host.sources / _name(source)
        if not Path(source).is_dir():
            if not copy.is_dir():
                return source
            self._originals[str(copy)] = source
            return str(copy)
        try:
            with self._host.alone(copy.name):
                _copy(Path(source), copy)
        except OSError as error:
            log.warning("%s is not copied: %s", source, error)
        return source

    def original(self, source: str) -> str:
        """The model's own folder, if `source` is a copy of one."""
        return self._originals.get(source, source)

    def forget(self, source: str) -> None:
        """Drop the copy of that folder."""
        if self._host is not None:
            shutil.rmtree(self._host.sources / _name(source), ignore_errors=True)


def _name(source: str) -> str:
    return f"source-{hashlib.sha256(source.encode()).hexdigest()[:32]}"


def _copy(source: Path, copy: Path) -> None:
    """`copy` is what `source` is now, without weights. Raises `OSError`, for too much too."""
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(source, followlinks=True)
        for name in names
        if Path(name).suffix not in _WEIGHTS
    ]
    if sum(file.stat().st_size for file in files) > _MOST_BYTES:
        raise OSError(f"it has more than {_MOST_BYTES} bytes beside its weights")
    draft = copy.with_name(f"draft-{uuid.uuid4().hex}")
    try:
        for file in files:
            target = draft / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        shutil.rmtree(copy, ignore_errors=True)
        draft.rename(copy)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
