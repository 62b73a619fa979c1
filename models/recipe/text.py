"""Owns the two text encoders: architecture, and their distillation from the teacher's embeddings.

Each phrase is put in the wordings that captions have. The token state that the denoiser reads at the end
of the phrase, and the pooled embedding, are asked for the phrase's meaning through a linear map that is
thrown away; so wording that no picture was captioned with lands near what was.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from models.recipe.art import STYLES
from models.recipe.captions import on_background
from models.recipe.optimizer import Optimizer
from models.recipe.plan import TextPlan
from models.recipe.scenes import BACKGROUNDS
from models.recipe.teacher import Teacher
from models.recipe.tokenizer import PROMPT_TOKENS, VOCABULARY
from models.recipe.training import Checkpoint, Lanes, Report, falling_lr

# Hidden sizes of the two text encoders; the denoiser reads them side by side.
TEXT_WIDTHS = (96, 160)
TEACHER_WIDTH = 384
CHECKPOINT_S = 60.0
# Shares of names and of keywords among the phrases of a batch; the rest are common words.
NAME_SHARE, KEYWORD_SHARE = 0.4, 0.25

_BEFORE = ("", "", "a", "a", "the", "a picture of a", "an emoji of a", "a small", "a big", "draw a", "a cute")


def build_text_encoder(width: int) -> CLIPTextModelWithProjection:
    """A fresh CLIP text encoder of two layers for 24-token prompts; its projection keeps the width."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=width // 32,
            max_position_embeddings=PROMPT_TOKENS,
            bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1,
            pad_token_id=VOCABULARY - 1,
        )
    )


class TextEncoders(nn.Module):
    """Both text encoders, and the maps to the teacher's space that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(TEXT_WIDTHS[0])
        self.text_encoder_2 = build_text_encoder(TEXT_WIDTHS[1])
        self.token_meaning = nn.Linear(sum(TEXT_WIDTHS), TEACHER_WIDTH)
        self.prompt_meaning = nn.Linear(sum(TEXT_WIDTHS), TEACHER_WIDTH)

    def embeddings(self) -> list[nn.Parameter]:
        """The matrices that are no hidden layer."""
        parts: list[nn.Module] = [*self.text_encoder.modules(), *self.text_encoder_2.modules()]
        return [cast(nn.Parameter, part.weight) for part in parts if isinstance(part, nn.Embedding)]

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (n, 24) to prompt embeddings (n, 24, 256) and pooled embeddings (n, 256).

        As the SD3 pipelines do it: the layer before the last for each token, the projection for the prompt.
        """
        outputs = [e(tokens, output_hidden_states=True) for e in (self.text_encoder, self.text_encoder_2)]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return hidden, torch.cat([output.text_embeds for output in outputs], dim=-1)

    def distance(self, tokens: torch.Tensor, ends: torch.Tensor, meaning: torch.Tensor) -> torch.Tensor:
        """How far phrases are from their meaning: 1 - cosine, mean of token and prompt (scalar).

        tokens (n, 24), the last token of each phrase (n,), unit meanings (n, 384).
        """
        hidden, pooled = self(tokens)
        at_end = hidden[torch.arange(len(ends), device=ends.device), ends]
        said = torch.stack([self.token_meaning(at_end), self.prompt_meaning(pooled)])
        return 1.0 - nn.functional.cosine_similarity(said.float(), meaning, dim=-1).mean()


@dataclass(frozen=True)
class Phrasebook:
    """The teacher's phrases as token ids, with the wordings around them; all on one device."""

    tokens: torch.Tensor  # (phrases, variants, 24)
    ends: torch.Tensor  # (phrases, variants): position of the phrase's last token
    meanings: torch.Tensor  # (phrases, 384)
    names: int
    keywords: int

    def batch(self, size: int, draw: torch.Generator) -> list[torch.Tensor]:
        """Tokens (size, 24), ends (size,) and meanings (size, 384) of phrases drawn by their shares."""
        kind = torch.rand(size, generator=draw)
        uniform = torch.rand(size, generator=draw)
        known = self.names + self.keywords
        as_word = known + uniform * (len(self.meanings) - known)
        as_keyword = self.names + uniform * self.keywords
        which = torch.where(kind < NAME_SHARE + KEYWORD_SHARE, as_keyword, as_word)
        which = torch.where(kind < NAME_SHARE, uniform * self.names, which).long()
        variant = torch.randint(0, self.tokens.shape[1], (size,), generator=draw)
        home = self.tokens.device
        which, variant = which.to(home), variant.to(home)
        return [self.tokens[which, variant], self.ends[which, variant], self.meanings[which]]


def phrasebook(
    teacher: Teacher, tokenizer: CLIPTokenizer, device: torch.device, variants: int = 6
) -> Phrasebook:
    """Puts every phrase in ``variants`` random wordings; the first is the phrase alone."""
    draw = Random(0)
    styles, colours = list(STYLES), list(BACKGROUNDS)
    tails = [f", {s}" for s in styles] + [on_background(c) for c in colours]
    tails += [f", {s} {on_background(c)}" for s in styles for c in colours]
    pieces = list(dict.fromkeys([*_BEFORE, *tails, *teacher.phrases]))
    ids = dict(zip(pieces, (list(row[1:-1]) for row in tokenizer(pieces).input_ids), strict=True))
    start, end = VOCABULARY - 2, VOCABULARY - 1
    rows, ends = [], []
    for phrase in teacher.phrases:
        for variant in range(variants):
            before = ids[draw.choice(_BEFORE)] if variant else []
            after = ids[draw.choice(tails)] if variant and draw.random() < 0.6 else []
            room = PROMPT_TOKENS - 2 - len(before)
            said = ids[phrase][:room]
            row = [start, *before, *said, *after[: room - len(said)], end]
            rows.append(row + [end] * (PROMPT_TOKENS - len(row)))
            ends.append(len(before) + len(said))
    shape = (len(teacher.phrases), variants)
    return Phrasebook(
        torch.tensor(rows, device=device).reshape(*shape, PROMPT_TOKENS),
        torch.tensor(ends, device=device).reshape(shape),
        torch.from_numpy(teacher.embeddings).to(device),
        teacher.names,
        teacher.keywords,
    )


def loss_of(
    model: TextEncoders, tokens: torch.Tensor, ends: torch.Tensor, meaning: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The distance, as loss and as the figure to report (scalars)."""
    with torch.autocast(tokens.device.type, torch.bfloat16):
        distance = model.distance(tokens, ends, meaning)
    return distance, distance


def train(book: Phrasebook, plan: TextPlan, work: Path, device: torch.device, lanes: Lanes) -> TextEncoders:
    """Distils the text encoders; resumes."""
    torch.manual_seed(0)
    model = TextEncoders().to(device)
    optimizer = Optimizer(list(model.parameters()), model.embeddings(), lanes.pool, torch.bfloat16)
    checkpoint = Checkpoint(work / "text.pt", CHECKPOINT_S, model=model, optimizer=optimizer)
    step = checkpoint.load(device)
    draw = torch.Generator().manual_seed(step)
    report = Report("text", plan.steps, "distance {:.4f}".format)
    while step < plan.steps:
        distance = lanes.step(model, partial(loss_of, model), book.batch(plan.batch, draw))
        lr = falling_lr(step / plan.steps, plan.peak_lr, (step + 1) / 50)
        optimizer.step(lr, lr)
        step += 1
        report.add(distance, step)
        checkpoint.tick(step)
    if step > checkpoint.loaded_step:
        checkpoint.save(step)
    return model.eval()
