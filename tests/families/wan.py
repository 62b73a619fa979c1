"""A tiny Wan."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from pipelines.catalogue import Model
from tests.families.parts import t5_tokenizer


def wan(folder: Path) -> Model:
    """Wan text-to-video with UniPC, whose state reaches over steps; 5 frames of 32 px."""
    torch.manual_seed(0)
    WanPipeline(
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=64,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4)
        ),
        tokenizer=t5_tokenizer(),
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="wan",
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=16,
        default_steps=4,
        default_frames=5,
        inputs={"max_sequence_length": 12},
    )
