"""Small random LoRA adapters, written to files as their trainers would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from pipelines.catalogue import Model
from tests.families.cases import holding
from wire.generation import Adapter

QUERIES = ("to_q", "to_v")


def fresh_denoiser(model: Model) -> tuple[str, Any]:
    """The component name of the model's denoiser, and one that nobody else holds."""
    resident = holding(model, "denoise")
    name = "unet" if hasattr(resident.pipe, "unet") else "transformer"
    return name, getattr(resident.pipe, name)


def make_lora(
    model: Model, folder: Path, name: str, *, seed: int, targets: tuple[str, ...] = QUERIES, rank: int = 4
) -> Adapter:
    """A file of keys that begin with the component's name, without metadata, so alpha is the rank."""
    component, denoiser = fresh_denoiser(model)
    state = _random_lora(denoiser, targets, rank, seed)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    safetensors.torch.save_file({f"{component}.{key}": value for key, value in state.items()}, file)
    return Adapter(name=name, source=str(file))


def make_saved_lora(
    model: Model, folder: Path, name: str, *, seed: int, alpha: int, rank: int = 4
) -> Adapter:
    """A folder as diffusers saves it: keys without a prefix; alpha and a dropout in the file's metadata."""
    _, denoiser = fresh_denoiser(model)
    _random_lora(denoiser, QUERIES, rank, seed, alpha=alpha, dropout=0.5)
    denoiser.save_lora_adapter(folder, adapter_name="made")
    return Adapter(name=name, source=str(folder))


def _random_lora(
    denoiser: Any,
    targets: tuple[str, ...],
    rank: int,
    seed: int,
    *,
    alpha: int | None = None,
    dropout: float = 0.0,
) -> dict[str, torch.Tensor]:
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, lora_dropout=dropout, target_modules=list(targets))
    denoiser.add_adapter(config, "made")
    generator = torch.Generator("cpu").manual_seed(seed)
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(denoiser, adapter_name="made")
    for value in state.values():
        value.data.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return {key: value.detach().clone() for key, value in state.items()}
