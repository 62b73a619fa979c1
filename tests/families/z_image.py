"""A tiny Z-Image."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

from pipelines.catalogue import Model
from tests.families.parts import image_vae, qwen3_config, qwen_tokenizer


def z_image(folder: Path) -> Model:
    """Z-Image with the last but one layer of a Qwen3 as its text encoder; 32 px."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(4),
        text_encoder=Qwen3Model(Qwen3Config(**qwen3_config(len(tokenizer)))),
        tokenizer=tokenizer,
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="z-image",
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=16,
        default_steps=4,
        inputs={"max_sequence_length": 48},
    )
