"""Profiles kept on disk: what a worker measured of a model, for the next start with the same of everything.

A file is named by model, device and a digest of its key: all that the figures depend on. The key is in the
file as well, so a file that was moved, cut or edited is seen for what it is and measured anew. Blocking I/O:
for threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from gateway.version import VERSION
from pipelines.catalogue import Model, to_entry
from planner.measurements import Measurements
from wire.generation import Generation

log = logging.getLogger(__name__)

FORMAT = 2
"""Of the file, and of how things are measured: another number means that old figures are of no use."""

BATCHES = (1, 2, 4)
"""How many jobs together are measured."""

_DISTRIBUTIONS = ("torch", "diffusers", "transformers", "triton")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures depend on. `device` is the kind, with the threads of a CPU's.

    `versions`: of the libraries and of this project. `entry`: the model in the catalogue. `files`: name, size
    and time of change of each of its files, none for a model of the hub, whose name says its version.
    `generations`: what is measured, with which `kernels`.
    """

    model: str
    device: str
    versions: dict[str, str]
    entry: dict[str, Any]
    files: tuple[tuple[str, int, int], ...]
    generations: tuple[Generation, ...]
    kernels: str
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """Equal for equal keys."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    @property
    def file_name(self) -> str:
        return f"{_slug(self.model)}.{_slug(self.device)}.{self.digest[:16]}.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file."""

    key: Key
    measurements: Measurements


def key_of(name: str, model: Model, device: str, generations: tuple[Generation, ...], kernels: str) -> Key:
    """Looks at the model's files."""
    return Key(
        model=name,
        device=device,
        versions={"triptych": VERSION, **_versions()},
        entry=to_entry(model),
        files=_files(Path(model.source)),
        generations=generations,
        kernels=kernels,
    )


def default_folder(environment: Mapping[str, str]) -> Path:
    """Below the user's folder for what can be made again, or else for temporary files."""
    if cache := environment.get("XDG_CACHE_HOME"):
        return Path(cache) / "triptych" / "profiles"
    if home := environment.get("HOME"):
        return Path(home) / ".cache" / "triptych" / "profiles"
    return Path(tempfile.gettempdir()) / f"triptych-{os.getuid()}-profiles"


class ProfileFolder:
    """Reads and writes profiles; the folder is made when first written to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def read(self, key: Key) -> Measurements | None:
        """What was measured under this very key, None if nothing was, or if the file is not to be trusted."""
        file = self.path / key.file_name
        try:
            kept = msgspec.json.decode(file.read_bytes(), type=Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("profile %s cannot be read, so it is measured anew: %s", file, error)
            return None
        measurements = kept.measurements
        if kept.key.digest != key.digest or (measurements.model, measurements.device) != (
            key.model,
            key.device,
        ):
            log.warning("profile %s is of something else, so it is measured anew", file)
            return None
        if reason := refusal(measurements):
            log.warning("profile %s is wrong, so it is measured anew: %s", file, reason)
            return None
        return measurements

    def write(self, key: Key, measurements: Measurements) -> Path | None:
        """Whole or not at all. None if it cannot be kept, which the log says."""
        file = self.path / key.file_name
        data = msgspec.json.format(msgspec.json.encode(Kept(key=key, measurements=measurements)))
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.replace(file)
        except OSError as error:
            log.warning("the profile of %s cannot be kept as %s: %s", key.model, file, error)
            with contextlib.suppress(OSError):
                draft.unlink()
            return None
        return file


def refusal(measurements: Measurements) -> str | None:
    """Why these cannot be what stages cost, None if they can."""
    for each in measurements.measured:
        if not 0 < each.seconds < float("inf") or (each.peak_bytes or 0) < 0:
            return f"{each.stage} in {each.seconds} s with {each.peak_bytes} bytes"
        if each.degree < 1 or each.batch < 1:
            return f"{each.stage} at degree {each.degree} with {each.batch} jobs"
    if not all(0 <= seconds < float("inf") for seconds in measurements.load_s.values()):
        return f"loads of {dict(measurements.load_s)} s"
    if not all(n_bytes >= 0 for n_bytes in measurements.weight_bytes.values()):
        return f"weights of {dict(measurements.weight_bytes)} bytes"
    if measurements.resume_s is not None and not 0 <= measurements.resume_s < float("inf"):
        return f"a resume of {measurements.resume_s} s"
    return None if measurements.measured else "nothing was measured"


def generations_to_measure(model: Model, *, tiled: Callable[[int, int], bool]) -> tuple[Generation, ...]:
    """The usual size first, the smallest, the largest and one between it and the usual one; and unguided.

    `tiled`: whether a picture of that size is decoded in tiles.
    """

    def generation(size_px: tuple[int, int], guidance_scale: float) -> Generation:
        return Generation(
            prompt="a measurement of a usual length, about what a person would write",
            width_px=size_px[0],
            height_px=size_px[1],
            num_inference_steps=model.default_steps,
            guidance_scale=guidance_scale,
            seed=0,
            num_frames=model.default_frames,
            tiled_decode=tiled(*size_px),
        )

    usual = model.default_size_px
    multiple, largest = model.size_multiple_px, model.max_size_px // model.size_multiple_px
    smallest = -(-model.min_size_px // multiple)
    between = round((usual[0] * usual[1]) ** 0.5 / multiple + largest) // 2
    squares = [(side * multiple, side * multiple) for side in (smallest, between, largest)]
    sizes = dict.fromkeys([usual, *squares])
    measured = [generation(size, model.default_guidance) for size in sizes]
    if model.family_table.guidance == "guider" and model.default_guidance > 1:
        measured.append(generation(usual, 1.0))
    return tuple(measured)


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def _files(source: Path) -> tuple[tuple[str, int, int], ...]:
    if not source.is_absolute():
        return ()
    found = []
    for file in sorted(source.rglob("*")):
        if file.is_file():
            status = file.stat()
            found.append((str(file.relative_to(source)), status.st_size, status.st_mtime_ns))
    return tuple(found)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "unnamed"
