"""The model that a GPU is measured with: that it is served like any other, in small."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from bench.random_model import NAME, random_sd3_medium
from pipelines.catalogue import load_catalogue
from wire.generation import Generation
from worker.resident import ResidentModel
from worker.task_pipeline import run_whole


def test_a_random_model_is_served_like_any_other(tmp_path: Path) -> None:
    model = load_catalogue(random_sd3_medium(tmp_path, tiny=True))[NAME]
    resident = ResidentModel(NAME, model, torch.device("cpu"))
    resident.load(resident.stage_names)
    with safe_open(tmp_path / "weights/transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        assert file.get_slice("proj_out.weight").get_dtype() == "BF16"
    generation = Generation(
        prompt="a red apple",
        width_px=32,
        height_px=32,
        num_inference_steps=2,
        guidance_scale=model.default_guidance,
        seed=1,
    )
    pixels = run_whole(resident, generation).get("images")
    assert pixels.shape[-2:] == (32, 32) or pixels.shape[1:3] == (32, 32)
    assert pixels.isfinite().all()
