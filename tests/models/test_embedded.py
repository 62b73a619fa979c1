"""The embedded model's folder: its bounds, its vocabulary, and that it draws what it is asked for."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from models.recipe.captions import pair_prompt, plain_prompt, with_article
from models.recipe.scenes import Size
from models.recipe.score import (
    GUIDANCE,
    REFERENCE_PX,
    SAMPLING_STEPS,
    border_rgb,
    generate,
    load,
    nearest,
    nearest_colour,
    shrunk,
)

FOLDER = Path(__file__).parents[2] / "models" / "triptych-emoji"
NAMES = (FOLDER / "names.txt").read_text(encoding="utf-8").split("\n")[:-1]
WEIGHTS = sorted(FOLDER.glob("*/*.safetensors"))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    yield load(FOLDER)
    torch.set_num_threads(threads)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_within_bounds(pipeline: Any) -> None:
    texts = parameters(pipeline.text_encoder) + parameters(pipeline.text_encoder_2)
    assert parameters(pipeline.transformer) <= 8_500_000
    assert texts <= 1_900_000
    assert parameters(pipeline.transformer) + texts + parameters(pipeline.vae) <= 11_500_000


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 24_000_000


def test_weights_are_bfloat16() -> None:
    assert len(WEIGHTS) == 4
    for path in WEIGHTS:
        with safe_open(path, "pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert kinds == {"BF16"}, path.name


def test_there_is_no_third_text_encoder() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusion3Pipeline"
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]


def test_every_name_fits_the_prompt(pipeline: Any) -> None:
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        assert tokenizer.model_max_length == encoder.config.max_position_embeddings == 24
        lengths = [len(ids) for ids in tokenizer([f"a picture of a {name}" for name in NAMES]).input_ids]
        assert max(lengths) <= 24


def test_no_prompt_holds_an_unknown_token(pipeline: Any) -> None:
    ids = pipeline.tokenizer("Ünïcode, 猫 and \U0001f408!").input_ids
    assert ids.count(pipeline.tokenizer.unk_token_id) == 1  # the end token, which CLIP also calls unknown
    assert pipeline.tokenizer("A CAT").input_ids == pipeline.tokenizer("a cat").input_ids


def test_names_are_lower_case_and_single() -> None:
    assert list(dict.fromkeys(name.lower() for name in NAMES)) == NAMES
    assert len(NAMES) >= 800


def references() -> np.ndarray:
    """The art of all names at 16 px."""
    thumbnails = np.asarray(Image.open(FOLDER / "references.png").convert("RGB"), np.float32) / 255.0
    rows, columns = thumbnails.shape[0] // REFERENCE_PX, thumbnails.shape[1] // REFERENCE_PX
    tiles = thumbnails.reshape(rows, REFERENCE_PX, columns, REFERENCE_PX, 3).transpose(0, 2, 1, 3, 4)
    return np.asarray(tiles.reshape(-1, REFERENCE_PX, REFERENCE_PX, 3)[: len(NAMES)])


def test_it_draws_what_it_is_asked_for(pipeline: Any) -> None:
    asked = [NAMES.index(name) for name in ("strawberry", "penguin", "rocket", "pizza")]
    prompts = [with_article(NAMES[index]) for index in asked]
    pictures = generate(pipeline, prompts, seed=7, steps=SAMPLING_STEPS, guidance=GUIDANCE)
    assert pictures.shape == (4, 128, 128, 3)
    found = nearest(shrunk(pictures, REFERENCE_PX), references())
    assert sum(int(a == b) for a, b in zip(asked, found, strict=True)) >= 3


def test_backgrounds_are_those_asked_for_in_every_style(pipeline: Any) -> None:
    looks = [
        ("3d render", "black"),
        ("soft gradient", "yellow"),
        ("flat icon", "blue"),
        ("noto style drawing", "green"),
    ]
    prompts = [plain_prompt("owl", style, colour) for style, colour in looks]
    pictures = generate(pipeline, prompts, seed=7, steps=SAMPLING_STEPS, guidance=GUIDANCE)
    assert [nearest_colour(border_rgb(picture)) for picture in pictures] == [colour for _, colour in looks]
    # four drawings of the same owl, not one
    owls = shrunk(pictures, REFERENCE_PX)[:, 4:12, 4:12]
    assert all(np.abs(a - b).mean() > 0.02 for i, a in enumerate(owls) for b in owls[:i])


def test_two_things_stand_side_by_side(pipeline: Any) -> None:
    pairs = [("strawberry", "pizza"), ("pizza", "strawberry"), ("rocket", "penguin"), ("penguin", "rocket")]
    prompts = [pair_prompt(left, right, "3d render", "white") for left, right in pairs]
    pictures = generate(pipeline, prompts, seed=7, steps=SAMPLING_STEPS, guidance=GUIDANCE)
    # each half without what is above and below the thing
    halves = [pictures[:, 32:96, :64], pictures[:, 32:96, 64:]]
    of_all = references()
    hits = 0
    for place, half in enumerate(halves):
        for picture, pair in zip(shrunk(half, REFERENCE_PX), pairs, strict=True):
            own, other = (np.abs(picture - of_all[NAMES.index(pair[i])]).mean() for i in (place, 1 - place))
            hits += own < other
    assert hits >= 7


def test_larger_pictures_are_not_small_ones_in_a_corner(pipeline: Any) -> None:
    """Without a fringe, on the background asked for, in any of the sizes."""
    for size in (Size(192, 256), Size(256, 128)):
        prompt = plain_prompt("rocket", "3d render", "white")
        (picture,) = generate(pipeline, [prompt], 7, SAMPLING_STEPS, GUIDANCE, size)
        assert picture.shape == (size.height_px, size.width_px, 3)
        assert nearest_colour(border_rgb(picture)) == "white"
        middle = picture[size.height_px // 4 : -size.height_px // 4, size.width_px // 4 : -size.width_px // 4]
        assert (middle.min(axis=-1) < 200).mean() > 0.3
