"""A tiny HunyuanVideo 1.5."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Transformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from pipelines.catalogue import Model
from tests.families.parts import qwen_tokenizer

# the pipeline cuts off the first 108 tokens, so that is what stands before the prompt here too
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['role'] == 'system' %}{{ message['content'][:93] }}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>{% endfor %}"
)


def hunyuan_video(folder: Path) -> Model:
    """HunyuanVideo 1.5, from text and from a picture; 5 frames of 32 px, 2 latent frames at 1/16."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer(2048)
    tokenizer.chat_template = _TEMPLATE
    HunyuanVideo15ImageToVideoPipeline(
        transformer=HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=1,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=16,
            text_embed_2_dim=16,
            image_embed_dim=16,
            rope_axes_dim=(2, 2, 4),
            target_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8, 8),
            layers_per_block=1,
            spatial_compression_ratio=16,
            temporal_compression_ratio=4,
            # matching by averages needs wider blocks
            downsample_match_channel=False,
            upsample_match_channel=False,
        ),
        text_encoder=Qwen2_5_VLTextModel(
            Qwen2_5_VLTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=2,
                rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
                initializer_range=0.5,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=384, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
        ),
        tokenizer_2=ByT5Tokenizer(),
        image_encoder=SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            )
        ),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    ).save_pretrained(folder / "model")
    return Model(
        source=str(folder / "model"),
        family="hunyuan-video-1.5",
        default_size_px=(32, 32),
        min_size_px=16,
        max_size_px=64,
        size_multiple_px=16,
        default_steps=4,
        default_frames=5,
    )
