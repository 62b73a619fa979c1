"""Tiny Flux2 models: dev (guidance is an input), Klein (distilled, no guidance), Klein base (a guider)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM

from pipelines.catalogue import Model
from tests.families.parts import qwen3_config, qwen_tokenizer

_LAYERS = [0, 1, 2]


def _parts(*, guidance_embeds: bool) -> dict[str, Any]:
    """What all three share: 64 px, latents of 4 channels at half size, packed two by two."""
    return {
        "transformer": Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=len(_LAYERS) * 32,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        ),
    }


def _model(folder: Path, family: str, **fields: Any) -> Model:
    return Model(
        source=str(folder / "model"),
        family=family,
        # its pictures to start from have at least 64 px a side
        default_size_px=(64, 64),
        min_size_px=16,
        max_size_px=128,
        size_multiple_px=4,
        default_steps=4,
        **fields,
    )


def flux2(folder: Path) -> Model:
    """Flux2 dev, with a Mistral 3 whose image half is never used."""
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    text = {"model_type": "mistral", **qwen3_config(len(tokenizer))}
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    Flux2Pipeline(
        **_parts(guidance_embeds=True),
        text_encoder=Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision)),
        tokenizer=tokenizer,
    ).save_pretrained(folder / "model")
    # the letters of the system message that stand before the prompt count too
    inputs = {"max_sequence_length": 256, "text_encoder_out_layers": _LAYERS}
    return _model(folder, "flux2", inputs=inputs)


def flux2_klein(folder: Path) -> Model:
    """Flux2 Klein, distilled, with a Qwen3."""
    return _klein(folder, is_distilled=True)


def flux2_klein_base(folder: Path) -> Model:
    """Flux2 Klein base, with a Qwen3."""
    return _klein(folder, is_distilled=False)


def _klein(folder: Path, *, is_distilled: bool) -> Model:
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer()
    Flux2KleinPipeline(
        **_parts(guidance_embeds=False),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**qwen3_config(len(tokenizer)))),
        tokenizer=tokenizer,
        is_distilled=is_distilled,
    ).save_pretrained(folder / "model")
    inputs = {"max_sequence_length": 48, "text_encoder_out_layers": _LAYERS}
    family = "flux2-klein" if is_distilled else "flux2-klein-base"
    return _model(folder, family, inputs=inputs, default_guidance=1.0 if is_distilled else 4.0)
