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

from models.recipe.captions import with_article
from models.recipe.score import GUIDANCE, REFERENCE_PX, SAMPLING_STEPS, generate, load, nearest, shrunk

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
    assert texts <= 1_300_000
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
    assert len(NAMES) >= 100


def test_it_draws_what_it_is_asked_for(pipeline: Any) -> None:
    thumbnails = np.asarray(Image.open(FOLDER / "references.png").convert("RGB"), np.float32) / 255.0
    rows, columns = thumbnails.shape[0] // REFERENCE_PX, thumbnails.shape[1] // REFERENCE_PX
    tiles = thumbnails.reshape(rows, REFERENCE_PX, columns, REFERENCE_PX, 3).transpose(0, 2, 1, 3, 4)
    references = tiles.reshape(-1, REFERENCE_PX, REFERENCE_PX, 3)[: len(NAMES)]
    asked = [NAMES.index(name) for name in ("strawberry", "penguin", "rocket", "pizza")]
    prompts = [with_article(NAMES[index]) for index in asked]
    pictures = generate(pipeline, prompts, seed=7, steps=SAMPLING_STEPS, guidance=GUIDANCE)
    assert pictures.shape == (4, 128, 128, 3)
    found = nearest(shrunk(pictures, REFERENCE_PX), references)
    assert sum(int(a == b) for a, b in zip(asked, found, strict=True)) >= 3
