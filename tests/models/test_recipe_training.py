"""The recipe's training parts: checkpoints, clock, learning rate, the parallel gradient, judgement."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.recipe import tokenizer
from models.recipe.art import Concept
from models.recipe.captions import Captioner
from models.recipe.denoiser import build_transformer
from models.recipe.scenes import BACKGROUNDS, held_out
from models.recipe.score import border_rgb, drawn_held_out, drawn_names, drawn_pairs, nearest_colour
from models.recipe.teacher import Teacher
from models.recipe.text import TextEncoders, phrasebook
from models.recipe.tokenizer import PROMPT_TOKENS, VOCABULARY
from models.recipe.training import Checkpoint, Clock, Lanes, Report, falling_lr


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_checkpoint_restores_what_it_saved(tmp_path: Path) -> None:
    model, clock = nn.Linear(3, 2), Clock()
    clock.next_stage()
    clock.tick()
    Checkpoint(tmp_path / "state.pt", 0.0, model=model, clock=clock).tick(7)
    other, later = nn.Linear(3, 2), Clock()
    checkpoint = Checkpoint(tmp_path / "state.pt", 0.0, model=other, clock=later)
    assert checkpoint.load(torch.device("cpu")) == checkpoint.loaded_step == 7
    assert torch.equal(model.weight, other.weight)
    assert later.state_dict() == clock.state_dict()


def test_a_stage_ends_by_steps_or_by_seconds() -> None:
    clock = Clock()
    clock.load_state_dict({"stage": 1, "steps": 5, "seconds": 30.0})
    assert clock.progress(10, float("inf")) == 0.5
    assert clock.progress(10, 40.0) == 0.75
    clock.next_stage()
    assert (clock.stage, clock.progress(10, 40.0)) == (2, 0.0)


def test_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    assert falling_lr(0.0, 2.0, warmth=0.1) == pytest.approx(0.2)
    assert falling_lr(0.5, 2.0) == 2.0
    assert falling_lr(0.85, 2.0) == pytest.approx(1.0)
    assert falling_lr(1.1, 2.0) == 0.0


def test_lanes_give_the_gradient_of_the_whole_batch() -> None:
    model, batch = nn.Linear(4, 1), torch.randn(6, 4)

    def losses(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = model(part).square().mean()
        return loss, loss

    (whole,) = torch.autograd.grad(losses(batch)[0], [model.weight])
    Lanes(2).step(model, losses, [batch])
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, whole)


def test_report_prints_the_mean_of_what_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("pairs", 100, "error {:.2f}".format)
    for step in range(41, 51):
        report.add(float(step > 45), step)
    assert capsys.readouterr().out.endswith("pairs 50/100: error 0.50\n")


def test_network_is_within_its_bounds() -> None:
    texts = TextEncoders()
    published = parameters(texts.text_encoder) + parameters(texts.text_encoder_2)
    # the autoencoder has 1,800,675
    assert parameters(build_transformer()) + published + 1_800_675 <= 11_500_000


def test_phrase_ends_where_the_phrasebook_says() -> None:
    captioner = Captioner((Concept("red apple", "red apple", (), True),))
    phrases = ("red apple", "city bus", "x" * 200)
    vocabulary = tokenizer.build(tokenizer.corpus(captioner, 1, phrases))
    meanings = np.eye(3, 384, dtype=np.float32)
    book = phrasebook(Teacher(phrases, 1, 1, meanings), vocabulary, torch.device("cpu"))
    assert book.tokens.shape == (3, 6, PROMPT_TOKENS)
    assert (book.tokens[:, :, 0] == VOCABULARY - 2).all()
    assert (book.tokens == VOCABULARY - 1).any(dim=-1).all()
    last = vocabulary("city bus").input_ids[-2]
    for row, end in zip(book.tokens[1], book.ends[1], strict=True):
        assert row[end] == last
    tokens, ends, wanted = book.batch(5, torch.Generator().manual_seed(0))
    assert (tokens.shape, ends.shape, wanted.shape) == ((5, PROMPT_TOKENS), (5,), (5, 384))


def test_border_colour_is_found_in_the_palette() -> None:
    for name, rgb in BACKGROUNDS.items():
        picture = np.full((128, 128, 3), 77, np.uint8)
        picture[0] = picture[-1] = rgb
        picture[:, 0] = picture[:, -1] = rgb
        assert nearest_colour(border_rgb(picture)) == name


def test_what_is_scored_is_drawn_once_and_for_all() -> None:
    names, kept, pairs = drawn_names(300, 200), drawn_held_out(300, 200), drawn_pairs(300, 50)
    assert len(set(names[:, 0])) == len(names) == 200
    assert held_out(kept[:, 0], kept[:, 2], kept[:, 3]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert np.array_equal(names, drawn_names(300, 200))
