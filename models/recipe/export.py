"""Owns the published folder: bf16 weights, configurations and tokenizers in the diffusers layout."""

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTokenizer

from models.recipe.denoiser import TextToLatent

# Shift of the sampling schedule towards noise.
SCHEDULE_SHIFT = 2.0

_INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(model: TextToLatent, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the pipeline folder beside its place, then renames; keeps the texts and pictures there."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    parts = {
        "text_encoder": model.texts.text_encoder,
        "text_encoder_2": model.texts.text_encoder_2,
        "transformer": model.transformer,
        "vae": vae,
    }
    for name, part in parts.items():
        rounded = copy.deepcopy(part).cpu().to(torch.bfloat16)
        rounded.to(memory_format=torch.contiguous_format).save_pretrained(fresh / name)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer.save_pretrained(fresh / name)
    FlowMatchEulerDiscreteScheduler(shift=SCHEDULE_SHIFT).save_pretrained(fresh / "scheduler")
    (fresh / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        for kept in folder.iterdir():
            if kept.is_file() and not (fresh / kept.name).exists():
                shutil.copy2(kept, fresh / kept.name)
        shutil.rmtree(folder)
    os.replace(fresh, folder)
