"""SD3-medium's architecture at its full size with random weights, as a model to serve.

Times do not depend on weights. Text goes through both CLIP encoders and no T5, which SD3 may be run without.
Sizes as published with the model (its card and configuration files).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from bench.catalogue_file import catalogue_file
from bench.kernels.decode import full_vae, tiny_vae
from bench.kernels.denoise import sd3_config
from bench.node import CHECKOUT
from pipelines.catalogue import Model

NAME = "random-sd3-medium"
TEXT_TOKENS = 77


def random_sd3_medium(folder: Path, *, tiny: bool = False) -> Path:
    """Its catalogue file in `folder`, which gets the weights too: 6 GB in bfloat16, or a few kB if `tiny`.

    Raises `OSError`.
    """
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        pipeline = _pipeline(tiny=tiny)
    finally:
        torch.set_default_dtype(usual)
    pipeline.save_pretrained(folder / "weights")
    side_px = 32 if tiny else 1024
    model = Model(
        source=str((folder / "weights").resolve()),
        family="sd3",
        description="SD3-medium's architecture with random weights: noise, in the time of pictures.",
        dtype="bfloat16",
        default_size_px=(side_px, side_px),
        min_size_px=side_px // 2,
        max_size_px=side_px,
        size_multiple_px=16,
        default_steps=4 if tiny else 28,
        default_guidance=4.5,
        inputs={"max_sequence_length": 0},
    )
    return catalogue_file(folder, NAME, model)


def _pipeline(*, tiny: bool) -> Any:
    tokenizer = CLIPTokenizer.from_pretrained(
        CHECKOUT / "models" / "triptych-emoji" / "tokenizer", model_max_length=TEXT_TOKENS
    )
    # layers, heads and width of CLIP-L and CLIP-G; together they are as wide as the pooled text
    sizes = ((2, 2, 8), (2, 2, 8)) if tiny else ((12, 12, 768), (32, 20, 1280))
    vae = tiny_vae() if tiny else full_vae()
    # of SD3's latents, without which nothing is decoded
    vae.register_to_config(scaling_factor=1.5305, shift_factor=0.0609)
    first, second = (_text_encoder(tokenizer, *size) for size in sizes)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**sd3_config(tiny=tiny)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _text_encoder(tokenizer: Any, n_layers: int, n_heads: int, width: int) -> Any:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            max_position_embeddings=TEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
