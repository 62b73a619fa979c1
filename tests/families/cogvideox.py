"""A tiny CogVideoX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from pipelines.catalogue import Model
from tests.families.parts import t5_tokenizer


def cogvideox(folder: Path, **transformer: Any) -> Model:
    """CogVideoX like the 5B: rotary embeddings, DPM; 9 frames of 32 px, 3 latent frames at 1/8.

    `transformer`: what is to be different in its denoiser.
    """
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": 32,
        "num_layers": 2,
        "sample_width": 4,
        "sample_height": 4,
        "sample_frames": 9,
        "max_text_seq_length": 12,
        "use_rotary_positional_embeddings": True,
    }
    CogVideoXPipeline(
        transformer=CogVideoXTransformer3DModel(**(config | transformer)),
        scheduler=CogVideoXDPMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        ),
        vae=AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
        ),
        tokenizer=t5_tokenizer(),
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="cogvideox",
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=16,
        default_steps=4,
        default_frames=9,
        inputs={"max_sequence_length": 12},
    )
