"""The decode stage of CogVideoX: latents to frames."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.configuration_utils import FrozenDict
from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks, OutputParam
from diffusers.video_processor import VideoProcessor

from pipelines.cogvideox.encode import MODEL_NAME


class CogVideoXDecoderStep(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step that decodes the denoised latents into a video"

    @property
    def expected_components(self) -> list[Any]:
        return [
            ComponentSpec("vae", AutoencoderKLCogVideoX),
            ComponentSpec(
                "video_processor",
                VideoProcessor,
                config=FrozenDict({"vae_scale_factor": 8}),
                default_creation_method="from_config",
            ),
        ]

    @property
    def inputs(self) -> list[Any]:
        return [
            InputParam("latents", type_hint=torch.Tensor, required=True),
            InputParam("output_type", type_hint=str, default="np"),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [OutputParam("videos", description='"pt": a tensor [B, F, C, H, W] in 0..1')]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        # the VAE takes channels before frames
        latents = 1 / components.vae.config.scaling_factor * block_state.latents.permute(0, 2, 1, 3, 4)
        video = components.vae.decode(latents, return_dict=False)[0]
        block_state.videos = components.video_processor.postprocess_video(
            video, output_type=block_state.output_type
        )
        self.set_block_state(state, block_state)
        return components, state
