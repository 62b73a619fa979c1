"""A tiny Flux."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from pipelines.catalogue import Model
from tests.families.parts import clip_config, clip_tokenizer, image_vae, t5_tokenizer


def flux(folder: Path) -> Model:
    """Flux dev with guidance as an input of the network; 32 px."""
    return _flux(folder, "flux", guidance_embeds=True, default_guidance=3.5)


def flux_schnell(folder: Path) -> Model:
    """Flux schnell, distilled, its schedule the same for all sizes; 32 px."""
    return _flux(folder, "flux-schnell", guidance_embeds=False, default_guidance=1.0)


def _flux(folder: Path, family: str, *, guidance_embeds: bool, default_guidance: float) -> Model:
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "tokens")
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance_embeds),
        vae=image_vae(4),
        text_encoder=CLIPTextModel(clip_config(len(tokenizer), hidden=16, projection=16)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
        ),
        tokenizer_2=t5_tokenizer(),
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family=family,
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=16,
        default_steps=4,
        default_guidance=default_guidance,
        inputs={"max_sequence_length": 12},
    )
