"""Owns the judgement of the published folder: how often a picture is its own thing's, and contact sheets."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from models.recipe import autoencoder
from models.recipe.art import STYLES, Art
from models.recipe.captions import pair_prompt, plain_prompt
from models.recipe.plan import LARGER_SIZES
from models.recipe.scenes import BACKGROUNDS, NONE, SQUARE, WHITE, Painter, Size, held_out

SAMPLING_STEPS = 16
GUIDANCE = 2.0
SEED = 0
# Side of the small pictures that a picture is compared in, and of those published for the test.
COMPARED_PX = 32
REFERENCE_PX = 16
NAMES_SCORED, HELD_OUT_SCORED, PAIRS_SCORED, LARGER_SCORED = 200, 200, 50, 50
_SHEET_NAMES = 40
_SHEET_COLUMNS = 10
_STYLES, _COLOURS = list(STYLES), list(BACKGROUNDS)


def load(folder: Path) -> StableDiffusion3Pipeline:
    """The published pipeline in float32, as its weights were rounded to bfloat16."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusion3Pipeline,
    prompts: Sequence[str],
    seed: int,
    steps: int,
    guidance: float,
    size: Size = SQUARE,
) -> np.ndarray:
    """One picture for each prompt, uint8 (n, h, w, 3); prompt i starts from the noise of ``seed + i``."""
    pictures: list[np.ndarray] = []
    for at in range(0, len(prompts), 16):
        part = list(prompts[at : at + 16])
        draws = [torch.Generator().manual_seed(seed + at + i) for i in range(len(part))]
        output = pipeline(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=0,
            height=size.height_px,
            width=size.width_px,
            generator=draws,
            output_type="np",
        )
        pictures.append((output.images * 255.0).round().astype(np.uint8))
    return np.concatenate(pictures)


def shrunk(pictures: np.ndarray, side_px: int) -> np.ndarray:
    """Pictures (n, h, w, 3) as float32 (n, side, side, 3) in [0, 1], box-filtered."""
    small = [Image.fromarray(p).resize((side_px, side_px), Image.Resampling.BOX) for p in pictures]
    return np.stack([np.asarray(p, np.float32) for p in small]) / 255.0


def nearest(pictures: np.ndarray, references: np.ndarray) -> np.ndarray:
    """For each small picture (n, s, s, 3), the index of the nearest reference (m, s, s, 3): (n,)."""
    flat = pictures.reshape(len(pictures), 1, -1)
    distances = np.square(flat - references.reshape(1, len(references), -1)).mean(axis=-1)
    return np.asarray(distances.argmin(axis=1))


def sheet(pictures: np.ndarray, columns: int) -> Image.Image:
    """Pictures (n, h, w, 3) side by side, left to right and top to bottom."""
    count, height, width = pictures.shape[:3]
    rows = -(-count // columns)
    canvas = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pictures):
        canvas.paste(Image.fromarray(picture), (index % columns * width, index // columns * height))
    return canvas


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` indices spread evenly over ``range(count)``."""
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def thumbnails(references: np.ndarray) -> Image.Image:
    """The references (n, 128, 128, 3) at ``REFERENCE_PX``, in rows of 16: what the test compares with."""
    small = sheet((shrunk(references, REFERENCE_PX) * 255.0).round().astype(np.uint8), 16)
    return small.quantize(256, dither=Image.Dither.NONE)


def border_rgb(picture: np.ndarray) -> np.ndarray:
    """Mean colour (3,) of the outermost pixels of a picture (h, w, 3)."""
    edge = np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
    return np.asarray(edge.mean(axis=0))


def nearest_colour(rgb: np.ndarray) -> str:
    """The name of the background of the palette that is nearest to a colour (3,) in [0, 255]."""
    return min(BACKGROUNDS, key=lambda name: float(np.square(rgb - BACKGROUNDS[name]).sum()))


class Judge:
    """Compares a pipeline's pictures with the art they were asked to show."""

    def __init__(self, pipeline: StableDiffusion3Pipeline, art: Art, painter: Painter) -> None:
        self._pipeline, self._painter = pipeline, painter
        self._names = [concept.name for concept in art.concepts]

    def draw(self, prompts: Sequence[str], steps: int, size: Size = SQUARE) -> np.ndarray:
        """One picture for each prompt at the default guidance, uint8 (n, h, w, 3)."""
        return generate(self._pipeline, prompts, SEED, steps, GUIDANCE, size)

    def singles(self, scenes: np.ndarray, steps: int, size: Size = SQUARE) -> list[dict[str, object]]:
        """Draws scenes (n, 5) of one thing; what was asked, what is nearest, and the border's colour.

        ``size`` is that of a square picture.
        """
        asked = [
            plain_prompt(self._names[first], _STYLES[style], _COLOURS[background])
            for first, _, style, background, _ in scenes
        ]
        found = self._nearest(self.draw(asked, steps, size), scenes[:, 2:4], self._whole)
        return [
            {
                "prompt": prompt,
                "style": _STYLES[scene[2]],
                "name": self._names[scene[0]],
                "nearest": self._names[index],
                "background": _COLOURS[scene[3]],
                "border": nearest_colour(border_rgb(picture)),
            }
            for prompt, scene, (index, picture) in zip(asked, scenes, found, strict=True)
        ]

    def pairs(self, scenes: np.ndarray, steps: int) -> list[dict[str, object]]:
        """Draws scenes (n, 5) of two things; what was asked for, and what is nearest in each half."""
        asked = [
            pair_prompt(self._names[a], self._names[b], _STYLES[style], _COLOURS[background])
            for a, b, style, background, _ in scenes
        ]
        pictures = self.draw(asked, steps)
        half = SQUARE.width_px // 2
        left = self._nearest(pictures[:, :, :half], scenes[:, 2:4], self._half)
        right = self._nearest(pictures[:, :, half:], scenes[:, 2:4], self._half)
        return [
            {
                "prompt": prompt,
                "style": _STYLES[scene[2]],
                "names": [self._names[scene[0]], self._names[scene[1]]],
                "nearest": [self._names[a], self._names[b]],
            }
            for prompt, scene, (a, _), (b, _) in zip(asked, scenes, left, right, strict=True)
        ]

    def _whole(self, style: int, background: int) -> np.ndarray:
        """Every concept in a style on a background, uint8 (concepts, 128, 128, 3)."""
        rows = [np.array([c, NONE, style, background, 0]) for c in range(len(self._names))]
        return self._painter.paint_all(np.stack(rows), SQUARE)

    def _half(self, style: int, background: int) -> np.ndarray:
        """Every concept as it stands in one half of a pair, uint8 (concepts, 128, 64, 3)."""
        rows = [np.array([c, c, style, background, 0]) for c in range(len(self._names))]
        return self._painter.paint_all(np.stack(rows), SQUARE)[:, :, : SQUARE.width_px // 2]

    def _nearest(
        self, pictures: np.ndarray, looks: np.ndarray, references: Callable[[int, int], np.ndarray]
    ) -> list[tuple[int, np.ndarray]]:
        """For each picture the concept whose reference of its look (style, background) is nearest."""
        small, result = shrunk(pictures, COMPARED_PX), np.zeros(len(pictures), np.int64)
        for style, background in np.unique(looks, axis=0).tolist():
            which = np.flatnonzero((looks == (style, background)).all(axis=1))
            result[which] = nearest(small[which], shrunk(references(style, background), COMPARED_PX))
        return list(zip(result.tolist(), pictures, strict=True))


def _share(answers: Sequence[bool]) -> float:
    return round(sum(answers) / max(1, len(answers)), 4)


def summary(singles: Sequence[dict[str, object]]) -> dict[str, object]:
    """Shares of singles whose nearest name and whose border colour are right, over all and by style."""
    right = [(str(one["style"]), one["name"] == one["nearest"]) for one in singles]
    return {
        "pictures": len(singles),
        "nearest_share": _share([hit for _, hit in right]),
        "nearest_share_by_style": {
            style: _share([hit for s, hit in right if s == style]) for style in _STYLES
        },
        "border_share": _share([one["background"] == one["border"] for one in singles]),
    }


def drawn_names(concepts: int, count: int) -> np.ndarray:
    """Scenes (n, 5) of ``count`` concepts drawn by seed, on white, the styles in turn."""
    first = np.random.default_rng(SEED).permutation(concepts)[:count]
    rows = [np.array([concept, NONE, i % len(STYLES), WHITE, 0]) for i, concept in enumerate(first)]
    return np.stack(rows)


def drawn_held_out(concepts: int, count: int) -> np.ndarray:
    """Scenes (n, 5) of ``count`` combinations of concept, style and background that are never trained."""
    grid = np.meshgrid(range(concepts), range(len(STYLES)), range(len(BACKGROUNDS)), indexing="ij")
    concept, style, background = (axis.ravel() for axis in grid)
    kept = np.flatnonzero(held_out(concept, style, background))
    which = np.random.default_rng(SEED).permutation(kept)[:count]
    empty = np.zeros_like(which)
    return np.stack([concept[which], empty + NONE, style[which], background[which], empty], axis=1)


def drawn_pairs(concepts: int, count: int) -> np.ndarray:
    """Scenes (n, 5) of ``count`` pairs of different concepts on white, the styles in turn."""
    draw = np.random.default_rng(SEED)
    pairs = [draw.permutation(concepts)[:2] for _ in range(count)]
    rows = [np.array([a, b, i % len(STYLES), WHITE, 0]) for i, (a, b) in enumerate(pairs)]
    return np.stack(rows)


def score(
    folder: Path, art: Art, out: Path, device: torch.device, about: dict[str, object], part: float = 1.0
) -> str:
    """Judges the published folder: raw results and sheets go under ``out``; returns a line of the shares.

    ``out`` gets ``results/embedded.json`` and ``sheets/*.png``. Everything is drawn at the default number
    of steps and at half of it. ``part`` is the share of the pictures to draw; the first ones of each draw.
    """
    pipeline = load(folder).to(device)
    painter = Painter(art)
    judge = Judge(pipeline, art, painter)
    concepts = len(art.concepts)
    (out / "results").mkdir(parents=True, exist_ok=True)
    (out / "sheets").mkdir(exist_ok=True)
    began = time.perf_counter()
    by_steps: dict[str, dict[str, object]] = {}
    raw: dict[str, object] = {}
    for steps in (SAMPLING_STEPS, SAMPLING_STEPS // 2):
        names = judge.singles(drawn_names(concepts, round(part * NAMES_SCORED)), steps)
        kept = judge.singles(drawn_held_out(concepts, round(part * HELD_OUT_SCORED)), steps)
        pairs = judge.pairs(drawn_pairs(concepts, round(part * PAIRS_SCORED)), steps)
        few = drawn_names(concepts, round(part * LARGER_SCORED))
        larger = {size: judge.singles(few, steps, size) for size in LARGER_SIZES if size.is_square}
        by_steps[str(steps)] = {
            "names": summary(names),
            "held_out": summary(kept),
            "by_size": {str(size): summary(drawn) for size, drawn in larger.items()},
            "pairs_share": _share([pair["names"] == pair["nearest"] for pair in pairs]),
            "pairs_halves_share": _share(
                [a == b for p in pairs for a, b in zip(p["names"], p["nearest"], strict=True)]  # type: ignore[call-overload]
            ),
        }
        by_size = {str(size): drawn for size, drawn in larger.items()}
        raw[str(steps)] = {"names": names, "held_out": kept, "by_size": by_size, "pairs": pairs}
    took_s = time.perf_counter() - began
    _sheets(judge, art, out / "sheets", round(part * _SHEET_NAMES))
    result = {
        **about,
        "concepts": concepts,
        "seed": SEED,
        "guidance": GUIDANCE,
        "unseen_psnr_db": autoencoder.unseen_psnr_db(pipeline.vae, painter, concepts),
        "by_steps": by_steps,
        "scoring_seconds": round(took_s, 1),
        "raw": raw,
    }
    (out / "results" / "embedded.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return json.dumps({"unseen_psnr_db": result["unseen_psnr_db"], **by_steps})


def _sheets(judge: Judge, art: Art, folder: Path, count: int) -> None:
    """A sheet of each style with ``count`` names, of pairs and of the larger sizes, nothing picked out."""
    names = [art.concepts[i].name for i in spread(len(art.concepts), count)]
    shown: dict[str, Image.Image] = {}
    for style in STYLES:
        prompts = [plain_prompt(name, style, "white") for name in names]
        shown[style] = sheet(judge.draw(prompts, SAMPLING_STEPS), _SHEET_COLUMNS)
    looks = [(style, colour) for colour in _COLOURS[:5] for style in STYLES]
    pairs = zip(names[::2], names[1::2], looks, strict=False)
    prompts = [pair_prompt(left, right, style, colour) for left, right, (style, colour) in pairs]
    shown["pairs"] = sheet(judge.draw(prompts, SAMPLING_STEPS), _SHEET_COLUMNS)
    for size in LARGER_SIZES:
        prompts = [
            plain_prompt(name, style, "white")
            for name, style in zip(names[:: max(1, count // 4)], STYLES, strict=False)
        ]
        shown[str(size)] = sheet(judge.draw(prompts, SAMPLING_STEPS, size), len(prompts))
    for name, canvas in shown.items():
        small = canvas.quantize(256, dither=Image.Dither.NONE)
        small.save(folder / f"{name.replace(' ', '-')}.png", optimize=True)
