"""Owns the denoiser: architecture, and its training by flow matching, stage by stage, with the text encoders.

The text encoders learn along, held to what they were distilled from, so that their wording stays open.

Source: rectified-flow training with logit-normal times and the joint-attention transformer are those of
Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024).
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from models.recipe.autoencoder import LATENT_CHANNELS
from models.recipe.latents import Pools
from models.recipe.optimizer import Optimizer
from models.recipe.plan import Stage
from models.recipe.scenes import SQUARE
from models.recipe.text import TEXT_WIDTHS, Phrasebook, TextEncoders
from models.recipe.training import Average, Checkpoint, Clock, Lanes, Report, falling_lr

LATENT_SIDE = 16
# Share of captions replaced by the empty prompt, which guidance steers away from.
EMPTY_SHARE = 0.1
# Mean and spread of the noise level's logit; above 0 leans towards noise, where the thing is decided.
LOGIT_MEAN, LOGIT_SPREAD = 0.2, 1.1
# Weight of the distance to the teacher's meaning, against the error of the velocity.
MEANING_WEIGHT = 0.1
# Steps over which a stage's learning rate rises.
WARMUP_STEPS = 50
CHECKPOINT_S = 120.0


def build_transformer() -> SD3Transformer2DModel:
    """A fresh denoiser: latents (n, 16, 16, 16) as 64 tokens beside 24 text tokens of 256 numbers.

    Modulations and the last projection start at zero, so that every block starts as the identity.
    Positions are kept for up to 256 px (32x32 latents).
    """
    model = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=6,
        caption_projection_dim=192,
        joint_attention_dim=sum(TEXT_WIDTHS),
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")):
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model


class TextToLatent(nn.Module):
    """Both text encoders and the denoiser as one trained module."""

    def __init__(self, texts: TextEncoders) -> None:
        super().__init__()
        self.texts = texts
        self.transformer = build_transformer()

    def ends(self) -> list[nn.Parameter]:
        """The matrices that are no hidden layer: embeddings, the first and the last projection."""
        own = [self.transformer.pos_embed.proj.weight, self.transformer.proj_out.weight]
        return own + self.texts.embeddings()

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Velocity (noise minus latents) of noisy latents (n, 16, h, w) at noise levels (n,) in [0, 1]."""
        hidden, pooled = self.texts(tokens)
        (velocity,) = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            timestep=sigma * 1000.0,
            return_dict=False,
        )
        return velocity  # type: ignore[no-any-return]


def loss_of(
    model: TextToLatent,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    tokens: torch.Tensor,
    velocity: torch.Tensor,
    phrase: torch.Tensor,
    ends: torch.Tensor,
    meaning: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The training loss, and the mean squared error of the predicted velocity to report (scalars)."""
    with torch.autocast(noisy.device.type, torch.bfloat16):
        predicted = model(noisy, sigma, tokens)
        distance = model.texts.distance(phrase, ends, meaning)
    error = (predicted.float() - velocity).square().mean()
    return error + MEANING_WEIGHT * distance, error


def train(
    stages: tuple[Stage, ...],
    model: TextToLatent,
    average_decay: float,
    pools: Pools,
    book: Phrasebook,
    empty: torch.Tensor,
    work: Path,
    device: torch.device,
    lanes: Lanes,
    finished: Callable[[Stage, TextToLatent, float], None],
) -> None:
    """Trains stage after stage and calls ``finished`` with its moving average and its seconds; resumes.

    ``empty`` are the token ids (24,) of the empty prompt.
    """
    torch.manual_seed(0)
    model = model.to(device)
    average = Average(copy.deepcopy(model), average_decay)
    optimizer = Optimizer(list(model.parameters()), model.ends(), lanes.pool, torch.bfloat16)
    clock = Clock()
    checkpoint = Checkpoint(
        work / "denoiser.pt",
        CHECKPOINT_S,
        model=model,
        average=average.module,
        optimizer=optimizer,
        clock=clock,
    )
    step = checkpoint.load(device)
    draw = torch.Generator().manual_seed(step)
    noises = torch.Generator(device).manual_seed(step)
    for index in range(clock.stage, len(stages)):
        stage = stages[index]
        report = Report(stage.name, stage.steps, "error {:.4f}".format)
        while clock.progress(stage.steps, stage.seconds) < 1.0:
            progress = clock.progress(stage.steps, stage.seconds)
            size = stage.sizes[int(torch.randint(0, len(stage.sizes), (), generator=draw))]
            area = size.height_px * size.width_px / (SQUARE.height_px * SQUARE.width_px)
            count = max(2, round(stage.batch / area) // 2 * 2)
            latents, tokens = pools.batch(size, stage.shares, count, draw)
            count = len(latents)
            tokens[(torch.rand(count, generator=draw) < EMPTY_SHARE).to(device)] = empty
            sigma = torch.sigmoid(LOGIT_MEAN + LOGIT_SPREAD * torch.randn(count, generator=draw)).to(device)
            noise = torch.randn(latents.shape, generator=noises, device=device)
            level = sigma[:, None, None, None]
            noisy = (1.0 - level) * latents + level * noise
            batch = [noisy, sigma, tokens, noise - latents, *book.batch(count, draw)]
            error = lanes.step(model, partial(loss_of, model), batch)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            warmth = (clock.steps + 1) / WARMUP_STEPS
            optimizer.step(
                falling_lr(progress, stage.hidden_lr, warmth), falling_lr(progress, stage.rest_lr, warmth)
            )
            average.update(model, step)
            step += 1
            clock.tick()
            report.add(error, clock.steps)
            checkpoint.tick(step)
        finished(stage, average.module, clock.seconds)  # type: ignore[arg-type]
        clock.next_stage()
        checkpoint.save(step)
