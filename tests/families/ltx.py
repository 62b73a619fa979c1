"""A tiny LTX-Video."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from pipelines.catalogue import Model
from tests.families.parts import t5_tokenizer


def ltx(folder: Path) -> Model:
    """LTX with a VAE that takes a timestep and draws noise; 9 frames of 32 px, 3 latent frames at 1/16."""
    torch.manual_seed(0)
    LTXPipeline(
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=2,
            caption_channels=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=4,
            max_image_seq_len=64,
            shift_terminal=0.1,
        ),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            timestep_conditioning=True,
        ),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
        ),
        tokenizer=t5_tokenizer(),
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="ltx",
        default_size_px=(32, 32),
        min_size_px=32,
        max_size_px=64,
        size_multiple_px=32,
        default_steps=4,
        default_frames=9,
        inputs={"max_sequence_length": 12, "decode_timestep": 0.05, "decode_noise_scale": 0.25},
    )
