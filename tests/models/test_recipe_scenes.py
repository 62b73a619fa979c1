"""The recipe's scenes and captions: what is painted is what is said, and what is kept from training is."""

import io
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from models.recipe.art import ART_PX, STYLES, Art, Concept, read, slug_of, write
from models.recipe.captions import Captioner, pair_prompt, plain_prompt, with_article
from models.recipe.plan import CPU, GPU, LARGER_SIZES, Plan
from models.recipe.scenes import (
    BACKGROUNDS,
    NONE,
    SQUARE,
    WHITE,
    Painter,
    Size,
    coloured,
    held_out,
    pairs,
    plain,
    small,
)

RED, CYAN = (255, 0, 0), (0, 255, 255)
CONCEPTS = (
    Concept("cat", "cat", ("pet", "kitten"), True),
    Concept("orange", "tangerine", ("fruit", "pet"), True),
)


def square(colour: tuple[int, int, int]) -> bytes:
    """A WebP of the art's size: an opaque square in the middle half of nothing."""
    picture = Image.new("RGBA", (ART_PX, ART_PX), (0, 0, 0, 0))
    picture.paste((*colour, 255), (ART_PX // 4, ART_PX // 4, 3 * ART_PX // 4, 3 * ART_PX // 4))
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True)
    return out.getvalue()


@pytest.fixture(scope="module")
def art() -> Art:
    return Art(CONCEPTS, (square(RED),) * len(STYLES) + (square(CYAN),) * len(STYLES))


def scene(first: int, second: int = NONE, background: int = WHITE, is_small: int = 0) -> np.ndarray:
    return np.array([first, second, 0, background, is_small])


def test_data_file_round_trip(art: Art, tmp_path: Path) -> None:
    path = tmp_path / "art.npz"
    write(path, art.concepts, art.blobs)
    assert read(path) == art


def test_slugs_are_those_of_the_icon_sets() -> None:
    assert slug_of("woman’s hat") == "womans-hat"
    assert slug_of("T-Rex") == "t-rex"
    assert slug_of("piñata") == "pinata"


@pytest.mark.parametrize("colour", BACKGROUNDS)
def test_background_is_the_named_colour_to_the_edge(art: Art, colour: str) -> None:
    picture = Painter(art).paint(scene(0, background=list(BACKGROUNDS).index(colour)), SQUARE)
    assert tuple(picture[0, 0]) == tuple(picture[-1, -1]) == BACKGROUNDS[colour]
    assert tuple(picture[64, 64]) == RED


def test_first_thing_is_left_and_small_is_half(art: Art) -> None:
    painter = Painter(art)
    picture = painter.paint(scene(0, 1), SQUARE)
    assert tuple(picture[64, 32]) == RED
    assert tuple(picture[64, 96]) == CYAN

    def red_px(is_small: int) -> int:
        return int((painter.paint(scene(0, is_small=is_small), SQUARE)[64] == RED).all(axis=-1).sum())

    assert red_px(0) == 60
    assert red_px(1) == 30


@pytest.mark.parametrize("size", [SQUARE, *LARGER_SIZES], ids=str)
def test_every_size_can_be_painted(art: Art, size: Size) -> None:
    for one in (scene(0), scene(0, 1), scene(1, is_small=1)):
        assert Painter(art).paint(one, size).shape == (size.height_px, size.width_px, 3)


def test_no_kind_shows_a_held_out_combination() -> None:
    kinds = (plain(30), coloured(30, 10_000, 0), small(30, 500, 0), pairs(30, 500, 0))
    for rows in kinds:
        assert len(rows) > 0
        assert not held_out(rows[:, 0], rows[:, 2], rows[:, 3]).any()
        two = rows[rows[:, 1] != NONE]
        assert not held_out(two[:, 1], two[:, 2], two[:, 3]).any()
        assert (two[:, 0] != two[:, 1]).all()


def test_held_out_is_a_tenth_and_one_background_of_each_thing_and_style() -> None:
    grid = np.meshgrid(range(50), range(len(STYLES)), range(len(BACKGROUNDS)), indexing="ij")
    kept = held_out(*grid)
    assert (kept.sum(axis=2) == 1).all()
    assert kept.mean() == pytest.approx(0.1)


def test_captions_say_what_is_painted() -> None:
    captioner, draw = Captioner(CONCEPTS), Random(0)
    for row in coloured(2, 100, 0):
        said = captioner.caption(row, draw)
        assert list(BACKGROUNDS)[row[3]] in said
        assert row[2] == 0 or list(STYLES)[row[2]] in said
    for row in small(2, 50, 0):
        said = captioner.caption(row, draw)
        assert any(word in said for word in ("small", "little", "tiny"))


def test_sides_in_captions_are_those_of_the_picture() -> None:
    captioner = Captioner((Concept("cat", "cat", (), True), Concept("pizza", "pizza", (), True)))
    for seed in range(60):
        said = captioner.caption(scene(0, 1), Random(seed))
        assert (said.index("cat") < said.index("pizza")) == ("to the right of" not in said)


def test_only_a_keyword_of_one_thing_stands_for_it() -> None:
    captioner = Captioner(CONCEPTS)
    assert captioner.names_of(0) == ["cat", "kitten"]
    assert captioner.names_of(1) == ["orange", "tangerine", "fruit"]


def test_articles() -> None:
    assert with_article("owl") == "an owl"
    assert with_article("unicorn") == "a unicorn"
    assert with_article("grapes") == "grapes"
    assert with_article("moon") == "the moon"
    assert plain_prompt("cat", "flat icon", "orange") == "a cat, flat icon on an orange background"
    assert pair_prompt("cat", "owl", "3d render", "white").startswith("a cat next to an owl, 3d render")


@pytest.mark.parametrize("plan", [CPU, GPU], ids=["cpu", "gpu"])
def test_plans_ask_for_known_kinds_in_whole_shares(plan: Plan) -> None:
    for stage in plan.stages:
        assert sum(stage.shares.values()) == pytest.approx(1.0)
        assert set(stage.shares) <= {"one style", "plain", *plan.scenes}
