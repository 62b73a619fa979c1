"""A tiny SD3."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

from pipelines.catalogue import Model
from tests.families.parts import clip_config, clip_tokenizer, image_vae, t5_tokenizer


def sd3(folder: Path) -> Model:
    """SD3 with two CLIP encoders and a T5; 32 px, latents of 4 channels at half size."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "tokens")
    vocab = len(tokenizer)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(4),
        text_encoder=CLIPTextModelWithProjection(clip_config(vocab, hidden=16, projection=16)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(vocab, hidden=16, projection=16)),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
        ),
        tokenizer_3=t5_tokenizer(),
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="sd3",
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=16,
        default_steps=4,
        inputs={"max_sequence_length": 12},
    )
