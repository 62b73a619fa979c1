"""Owns the pictures the model learns: fetches the art packages, renders them, keeps them as one array.

The packages are pinned with their integrity hashes in ``art/package-lock.json``; ``npm ci`` refuses
anything else. Nothing of the art is committed: see ``models/NOTICE`` for its authors and licences.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PICTURE_PX = 128
# White left at each side, so that nothing touches the border of a picture.
MARGIN_PX = 5
# Groups of emojibase that show things: animals and plants, food, travel and places, activities, objects.
GROUPS = (3, 4, 5, 6, 7)

_RECIPE = Path(__file__).parent


@dataclass(frozen=True)
class Thing:
    """One emoji: the name the model is taught (None for art only the autoencoder sees) and its words."""

    name: str | None
    label: str
    keywords: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The name of its icon in the art package."""
        return slug_of(self.label)


def slug_of(label: str) -> str:
    """The icon name that belongs to an emoji label, as in ``T-Rex`` to ``t-rex``."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def chosen_names() -> dict[str, str]:
    """Label to taught name, in the order of ``things.txt``."""
    names: dict[str, str] = {}
    for line in (_RECIPE / "things.txt").read_text(encoding="utf-8").splitlines():
        entry = line.strip()
        if entry and not entry.startswith("#"):
            name, _, label = (part.strip() for part in entry.partition("="))
            names[label or name] = name
    return names


def fetch(work: Path) -> Path:
    """Installs the pinned art packages into the work folder; returns the ``node_modules`` folder."""
    folder = work / "art"
    packages = folder / "node_modules"
    if (folder / "fetched").exists():
        return packages
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("package.json", "package-lock.json"):
        shutil.copy(_RECIPE / "art" / part, folder / part)
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True)
    (folder / "fetched").touch()
    return packages


def read_things(packages: Path) -> list[Thing]:
    """All renderable emoji of the thing groups: the taught ones first, in their order, then the rest."""
    emoji = json.loads((packages / "emojibase-data" / "en" / "data.json").read_text(encoding="utf-8"))
    icons = json.loads(
        (packages / "@iconify-json" / "fluent-emoji" / "icons.json").read_text(encoding="utf-8")
    )
    names = chosen_names()
    found: dict[str, Thing] = {}
    for entry in emoji:
        label = str(entry["label"])
        if entry.get("group") in GROUPS and slug_of(label) in icons["icons"]:
            found[label] = Thing(names.get(label), label, tuple(str(tag) for tag in entry.get("tags", ())))
    missing = [label for label in names if label not in found]
    if missing:
        raise ValueError(f"things.txt names emoji that the art packages lack: {missing}")
    return [found[label] for label in names] + [thing for thing in found.values() if thing.name is None]


def _on_white(path: Path) -> np.ndarray:
    """The rendered icon in the middle of a white picture, uint8 (128, 128, 3)."""
    picture = np.full((PICTURE_PX, PICTURE_PX, 3), 255, np.uint8)
    inner = slice(MARGIN_PX, PICTURE_PX - MARGIN_PX)
    picture[inner, inner] = np.asarray(Image.open(path).convert("RGB"))
    return picture


def prepare(work: Path) -> tuple[list[Thing], np.ndarray]:
    """Fetches and renders everything once; returns the things and their pictures, uint8 (n, 128, 128, 3)."""
    packages = fetch(work)
    things = read_things(packages)
    folder, array = work / "art" / "png", work / "art" / "pictures.npy"
    if not array.exists():
        job = {
            "packages": str(packages.resolve()),
            "size_px": PICTURE_PX - 2 * MARGIN_PX,
            "out": str(folder.resolve()),
            "icons": [thing.slug for thing in things],
        }
        order = work / "art" / "job.json"
        order.write_text(json.dumps(job), encoding="utf-8")
        subprocess.run(["node", str(_RECIPE / "art" / "render.mjs"), str(order)], check=True)
        np.save(array, np.stack([_on_white(folder / f"{thing.slug}.png") for thing in things]))
    pictures: np.ndarray = np.load(array)
    if len(pictures) != len(things):
        raise ValueError(f"{array} holds another number of pictures than there are things: remove it")
    return things, pictures
