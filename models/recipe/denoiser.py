"""Owns the denoiser and its two text encoders: architecture and joint training by flow matching.

Source: rectified-flow training with logit-normal times and the joint-attention transformer are those of
Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024).
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from models.recipe.autoencoder import LATENT_CHANNELS
from models.recipe.optimizer import Optimizer
from models.recipe.tokenizer import PROMPT_TOKENS, VOCABULARY
from models.recipe.training import Average, Checkpoint, Lanes, falling_lr, log

LATENT_SIDE = 16
# Hidden sizes of the two text encoders; the denoiser reads them side by side.
TEXT_WIDTHS = (96, 160)
STEPS = 1600
# Steps computed in bfloat16, which is faster; the rest, at low learning rates, is float32.
ROUGH_STEPS = 1450
BATCH = 48
HIDDEN_LR, REST_LR = 2e-3, 1e-3
# Share of captions replaced by the empty prompt, which guidance steers away from.
EMPTY_SHARE = 0.1
# Mean and spread of the noise level's logit; above 0 leans towards noise, where the thing is decided.
LOGIT_MEAN, LOGIT_SPREAD = 0.2, 1.1
AVERAGE_DECAY = 0.996
CHECKPOINT_S = 60.0


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

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(TEXT_WIDTHS[0])
        self.text_encoder_2 = build_text_encoder(TEXT_WIDTHS[1])
        self.transformer = build_transformer()

    def ends(self) -> list[nn.Parameter]:
        """The matrices that are no hidden layer: embeddings, the first and the last projection."""
        ends = [self.transformer.pos_embed.proj.weight, self.transformer.proj_out.weight]
        for encoder in (self.text_encoder, self.text_encoder_2):
            ends += [part.weight for part in encoder.modules() if isinstance(part, nn.Embedding)]
        return ends

    def embed(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (n, 24) to prompt embeddings (n, 24, 256) and pooled embeddings (n, 256).

        As the SD3 pipelines do it: the layer before the last for each token, the projection for the prompt.
        """
        outputs = [e(tokens, output_hidden_states=True) for e in (self.text_encoder, self.text_encoder_2)]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return hidden, torch.cat([output.text_embeds for output in outputs], dim=-1)

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Velocity (noise minus latents) of noisy latents (n, 16, h, w) at noise levels (n,) in [0, 1]."""
        hidden, pooled = self.embed(tokens)
        (velocity,) = self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            timestep=sigma * 1000.0,
            return_dict=False,
        )
        return velocity  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Lessons:
    """What the denoiser learns from: scaled latents and tokenized captions."""

    latents: torch.Tensor  # (things, 16, 16, 16)
    tokens: torch.Tensor  # (all captions, 24)
    first: torch.Tensor  # (things,): index of a thing's first caption
    count: torch.Tensor  # (things,): how many captions a thing has
    empty: torch.Tensor  # (24,): the empty prompt

    def batch(self, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (size, 16, 16, 16) and token ids (size, 24), things drawn uniformly."""
        things = torch.randint(0, len(self.latents), (size,), generator=draw)
        which = (torch.rand(size, generator=draw) * self.count[things]).long()
        tokens = self.tokens[self.first[things] + which].clone()
        tokens[torch.rand(size, generator=draw) < EMPTY_SHARE] = self.empty
        return self.latents[things], tokens


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Prompts to padded token ids (n, 24)."""
    encoded = tokenizer(list(texts), padding="max_length", max_length=PROMPT_TOKENS, truncation=True)
    return torch.tensor(encoded.input_ids)


def lessons_of(latents: torch.Tensor, captions: Sequence[Sequence[str]], tokenizer: CLIPTokenizer) -> Lessons:
    """Lessons from scaled latents (things, 16, 16, 16) and each thing's captions."""
    count = torch.tensor([len(texts) for texts in captions])
    tokens = tokenize(tokenizer, [text for texts in captions for text in texts])
    return Lessons(latents, tokens, count.cumsum(0) - count, count, tokenize(tokenizer, [""])[0])


def loss_of(
    model: TextToLatent,
    rough: bool,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    tokens: torch.Tensor,
    velocity: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error of the predicted velocity, as loss and as the figure to report (scalars)."""
    with torch.autocast(noisy.device.type, torch.bfloat16, enabled=rough):
        predicted = model(noisy, sigma, tokens)
    loss = (predicted.float() - velocity).square().mean()
    return loss, loss


def train(lessons: Lessons, work: Path, device: torch.device, lanes: Lanes) -> TextToLatent:
    """Trains denoiser and text encoders together; returns their moving average. Resumes."""
    torch.manual_seed(0)
    model = TextToLatent().to(device)
    average = Average(copy.deepcopy(model), AVERAGE_DECAY)
    optimizer = Optimizer(list(model.parameters()), model.ends(), lanes.pool, torch.bfloat16)
    checkpoint = Checkpoint(
        work / "denoiser.pt", CHECKPOINT_S, model=model, average=average.module, optimizer=optimizer
    )
    step = checkpoint.load(device)
    draw = torch.Generator().manual_seed(step)
    began, loss_sum = time.perf_counter(), 0.0
    while step < STEPS:
        latents, tokens = (part.to(device) for part in lessons.batch(BATCH, draw))
        sigma = torch.sigmoid(LOGIT_MEAN + LOGIT_SPREAD * torch.randn(BATCH, generator=draw)).to(device)
        noise = torch.randn(latents.shape, generator=draw).to(device)
        level = sigma[:, None, None, None]
        noisy = (1.0 - level) * latents + level * noise
        losses = partial(loss_of, model, step < ROUGH_STEPS)
        loss_sum += lanes.step(model, losses, [noisy, sigma, tokens, noise - latents])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(
            falling_lr(step, STEPS, HIDDEN_LR, warmup=50), falling_lr(step, STEPS, REST_LR, warmup=50)
        )
        average.update(model, step)
        step += 1
        if step % 25 == 0:
            passes = step * BATCH / len(lessons.latents)
            log(f"denoiser step {step}/{STEPS} ({passes:.0f} passes) loss {loss_sum / 25:.4f}", began)
            loss_sum = 0.0
        checkpoint.tick(step)
    checkpoint.save(step)
    return average.module.eval()  # type: ignore[return-value]
