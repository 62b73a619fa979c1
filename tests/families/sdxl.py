"""A tiny Stable Diffusion XL."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from pipelines.catalogue import Model
from tests.families.parts import clip_config, clip_tokenizer, image_vae


def sdxl(folder: Path) -> Model:
    """SDXL: a UNet that predicts noise, two CLIP encoders; 32 px."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "tokens")
    config = clip_config(len(tokenizer), hidden=16, projection=16)
    StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32),
            layers_per_block=1,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 1),
            projection_class_embeddings_input_dim=6 * 8 + 16,
            cross_attention_dim=32,
            norm_num_groups=4,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        vae=image_vae(4),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer_2=tokenizer,
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="sdxl",
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=8,
        default_steps=4,
    )
