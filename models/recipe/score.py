"""Owns the judgement of the published folder: a contact sheet and how often a picture is its own thing's."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from models.recipe.captions import with_article

SAMPLING_STEPS = 16
GUIDANCE = 2.0
SEED = 0
# Side of the small pictures that a picture is compared in, and of those published for the test.
COMPARED_PX = 32
REFERENCE_PX = 16
_SHEET_NAMES = 60
_SHEET_COLUMNS = 10


def load(folder: Path) -> StableDiffusion3Pipeline:
    """The published pipeline in float32, as its weights were rounded to bfloat16."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusion3Pipeline, prompts: Sequence[str], seed: int, steps: int, guidance: float
) -> np.ndarray:
    """One picture for each prompt, uint8 (n, 128, 128, 3); prompt i starts from the noise of ``seed + i``."""
    pictures: list[np.ndarray] = []
    for at in range(0, len(prompts), 16):
        part = list(prompts[at : at + 16])
        draws = [torch.Generator().manual_seed(seed + at + i) for i in range(len(part))]
        output = pipeline(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=0,
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
    return sheet((shrunk(references, REFERENCE_PX) * 255.0).round().astype(np.uint8), 16)


def score(
    folder: Path, references: np.ndarray, names: Sequence[str], out: Path, about: dict[str, object]
) -> float:
    """Draws every name once, writes ``sheet.png`` and ``results/embedded.json`` under ``out``.

    ``references`` are the source pictures of the names, uint8 (n, 128, 128, 3). Returns the share of
    pictures whose nearest reference, at 32 px, is their own.
    """
    pipeline = load(folder)
    began = time.perf_counter()
    pictures = generate(pipeline, [with_article(name) for name in names], SEED, SAMPLING_STEPS, GUIDANCE)
    took_s = time.perf_counter() - began
    found = nearest(shrunk(pictures, COMPARED_PX), shrunk(references, COMPARED_PX))
    misses = {names[i]: names[int(j)] for i, j in enumerate(found) if i != j}
    share = 1.0 - len(misses) / len(names)
    shown = sheet(pictures[spread(len(names), _SHEET_NAMES)], _SHEET_COLUMNS)
    shown.quantize(256, dither=Image.Dither.NONE).save(out / "sheet.png", optimize=True)
    result = {
        **about,
        "names": len(names),
        "seed": SEED,
        "steps": SAMPLING_STEPS,
        "guidance": GUIDANCE,
        "nearest_reference_share": round(share, 4),
        "nearest_reference_misses": misses,
        "seconds_a_picture": round(took_s / len(names), 4),
    }
    (out / "results").mkdir(exist_ok=True)
    (out / "results" / "embedded.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return share
