"""Owns the art the model learns: fetches the packages, renders every style, keeps all in one data file.

The packages are pinned with their integrity hashes in ``art/package-lock.json``; ``npm ci`` refuses
anything else. Nothing of the art is committed: see ``models/NOTICE`` for its authors and licences. The
data file is all that the later stages read, and small enough to be carried to another machine.
"""

import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

# A thing in a 256 px picture with a sixteenth left free; every other size is a shrunk copy.
ART_PX = 240
# Style as captions name it, and the package of its art.
STYLES = {
    "3d render": "@lobehub/fluent-emoji-3d",
    "soft gradient": "@iconify-json/fluent-emoji",
    "flat icon": "@iconify-json/fluent-emoji-flat",
    "noto style drawing": "@iconify-json/noto",
}
# Groups of emojibase that show concrete things: animals and plants, food, places, activities, objects.
CONCRETE_GROUPS = (3, 4, 5, 6, 7)
# Smileys, people and symbols, which come after them.
FURTHER_GROUPS = (0, 1, 8)

_RECIPE = Path(__file__).parent
_CLOCK = re.compile(r"o’clock$|-thirty$")
# resvg 2.6.2 aborts on its Noto drawing: a translucent group that lies outside of the canvas.
_UNRENDERABLE = "package"
_WEBP_QUALITY = 80


@dataclass(frozen=True)
class Concept:
    """One emoji: the name it is taught by, its label in emojibase, its keywords, whether it is a thing."""

    name: str
    label: str
    keywords: tuple[str, ...]
    concrete: bool


@dataclass(frozen=True)
class Art:
    """The data file in memory: concepts, concrete ones first, and a picture of each in every style."""

    concepts: tuple[Concept, ...]
    blobs: tuple[bytes, ...]  # WebP with transparency, concept by concept, in the order of STYLES

    def limited(self, count: int) -> "Art":
        """The first ``count`` concepts."""
        return Art(self.concepts[:count], self.blobs[: count * len(STYLES)])

    def pixels(self, side_px: int) -> np.ndarray:
        """All art at one size, uint8 (concepts, styles, side, side, 4), colours multiplied by alpha."""

        def decoded(blob: bytes) -> np.ndarray:
            picture = Image.open(io.BytesIO(blob)).convert("RGBa")
            if side_px != ART_PX:
                picture = picture.resize((side_px, side_px), Image.Resampling.BOX)
            return np.asarray(picture)

        with ThreadPoolExecutor() as pool:
            flat = np.stack(list(pool.map(decoded, self.blobs)))
        return flat.reshape(len(self.concepts), len(STYLES), side_px, side_px, 4)


def slug_of(label: str) -> str:
    """The icon name that belongs to an emoji label, as in ``woman’s hat`` to ``womans-hat``."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("ñ", "n")).strip("-")


def renamed() -> dict[str, str]:
    """Label to taught name where the two differ, from ``names.txt``."""
    names: dict[str, str] = {}
    for line in (_RECIPE / "names.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, label = (part.strip() for part in line.partition("="))
            names[label] = name
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


def read_concepts(packages: Path) -> list[tuple[Concept, dict[str, str]]]:
    """Every concept with art in all four styles, concrete ones first, and by style where its art is.

    Art is named by the icon's slug, and by its file in the 3D set. Left out: clock faces, which differ in
    their hands only, one that cannot be rendered, and what the flat set lacks, since that is not in
    Microsoft's open set.
    """
    emoji = json.loads((packages / "emojibase-data" / "en" / "data.json").read_text(encoding="utf-8"))
    sets = {
        style: json.loads((packages / package / "icons.json").read_text(encoding="utf-8"))
        for style, package in STYLES.items()
        if style != "3d render"
    }
    names = renamed()
    slugs = [{*icons["icons"], *icons.get("aliases", {})} for icons in sets.values()]
    found: list[tuple[Concept, dict[str, str]]] = []
    for entry in emoji:
        label, group = str(entry["label"]), entry.get("group")
        if group not in CONCRETE_GROUPS + FURTHER_GROUPS or _CLOCK.search(label) or label == _UNRENDERABLE:
            continue
        slug, code = slug_of(label), entry["hexcode"].lower()
        shapes = [
            packages / STYLES["3d render"] / "assets" / f"{name}.webp"
            for name in (code, f"{code}-fe0f", code.replace("-fe0f", ""), code.lstrip("0"))
        ]
        shape = next((path for path in shapes if path.exists()), None)
        if shape is None or not all(slug in known for known in slugs):
            continue
        keywords = tuple(str(tag).lower() for tag in entry.get("tags", ()))
        concept = Concept(names.get(label, label.lower()), label, keywords, group in CONCRETE_GROUPS)
        found.append((concept, {"3d render": str(shape), **dict.fromkeys(sets, slug)}))
    repeated = [name for name, count in Counter(c.name for c, _ in found).items() if count > 1]
    if repeated:
        raise ValueError(f"two concepts have one name: {repeated}")
    return sorted(found, key=lambda pair: not pair[0].concrete)


def _packed(path: Path) -> bytes:
    """A picture file as WebP with transparency, ``ART_PX`` square."""
    picture = Image.open(path).convert("RGBa")
    if picture.size != (ART_PX, ART_PX):
        picture = picture.resize((ART_PX, ART_PX), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.convert("RGBA").save(out, "WEBP", quality=_WEBP_QUALITY, method=4)
    return out.getvalue()


def write(path: Path, concepts: Sequence[Concept], blobs: Sequence[bytes]) -> None:
    """Writes the data file: concepts as JSON, pictures one behind the other."""
    about = json.dumps([asdict(concept) for concept in concepts]).encode()
    np.savez(
        path,
        concepts=np.frombuffer(about, np.uint8),
        ends=np.cumsum([len(blob) for blob in blobs]),
        pictures=np.frombuffer(b"".join(blobs), np.uint8),
    )


def read(path: Path) -> Art:
    """Reads the data file."""
    with np.load(path) as stored:
        about = json.loads(stored["concepts"].tobytes())
        ends, pictures = stored["ends"].tolist(), stored["pictures"].tobytes()
    concepts = tuple(Concept(**{**entry, "keywords": tuple(entry["keywords"])}) for entry in about)
    return Art(concepts, tuple(pictures[a:b] for a, b in zip([0, *ends], ends, strict=False)))


def prepare(work: Path) -> Art:
    """Fetches and renders everything once into ``art.npz`` of the work folder, and reads it."""
    path = work / "art.npz"
    if not path.exists():
        packages = fetch(work).resolve()
        found = read_concepts(packages)
        folder = work.resolve() / "art" / "png"
        folder.mkdir(exist_ok=True)
        files: list[Path] = []
        icons: list[list[str]] = []
        for index, (_, places) in enumerate(found):
            for style, place in places.items():
                files.append(Path(place) if style == "3d render" else folder / f"{index}-{len(files)}.png")
                if style != "3d render":
                    icons.append([STYLES[style], place, str(files[-1])])
        order = work / "art" / "job.json"
        job = {"packages": str(packages), "size_px": ART_PX, "icons": icons}
        order.write_text(json.dumps(job), encoding="utf-8")
        subprocess.run(["node", str(_RECIPE / "art" / "render.mjs"), str(order)], check=True)
        with ThreadPoolExecutor() as pool:
            blobs = list(pool.map(partial(_packed), files))
        write(path, [concept for concept, _ in found], blobs)
        shutil.rmtree(folder)
    return read(path)
