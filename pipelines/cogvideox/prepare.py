"""What stands before the loop of CogVideoX, and behind it: timesteps, noise, positions, padding frames.

Latents are [B, F, C, H, W], F latent frames. CogVideoX 1.5 takes them in patches of several frames
(`patch_size_t`), so they are padded in front to a multiple of that, and cut again behind the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks, OutputParam
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from diffusers.utils.torch_utils import randn_tensor

from pipelines.cogvideox.encode import MODEL_NAME


class CogVideoXSetTimestepsStep(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step that sets the scheduler's timesteps"

    @property
    def expected_components(self) -> list[Any]:
        return [ComponentSpec("scheduler", CogVideoXDDIMScheduler)]

    @property
    def inputs(self) -> list[Any]:
        return [InputParam("num_inference_steps", type_hint=int, default=50)]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [OutputParam("timesteps", type_hint=torch.Tensor, description="[steps]")]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        components.scheduler.set_timesteps(
            block_state.num_inference_steps, device=components._execution_device
        )
        block_state.timesteps = components.scheduler.timesteps
        self.set_block_state(state, block_state)
        return components, state


class CogVideoXPrepareLatentsStep(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step that draws the noise to start from"

    @property
    def expected_components(self) -> list[Any]:
        return [
            ComponentSpec("transformer", CogVideoXTransformer3DModel),
            ComponentSpec("scheduler", CogVideoXDDIMScheduler),
        ]

    @property
    def inputs(self) -> list[Any]:
        return [
            InputParam("height", type_hint=int, required=True),
            InputParam("width", type_hint=int, required=True),
            InputParam("num_frames", type_hint=int, default=49),
            InputParam("generator", type_hint=torch.Generator),
            InputParam("prompt_embeds", type_hint=torch.Tensor, required=True),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [
            OutputParam("latents", type_hint=torch.Tensor, description="[B, F, C, H, W]"),
            OutputParam("padding_frames", type_hint=int, description="latent frames put in front"),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        config = components.transformer.config
        frames = (block_state.num_frames - 1) // components.temporal_compression + 1
        block_state.padding_frames = -frames % (config.patch_size_t or 1)
        shape = (
            block_state.prompt_embeds.shape[0],
            frames + block_state.padding_frames,
            config.in_channels,
            block_state.height // components.spatial_compression,
            block_state.width // components.spatial_compression,
        )
        noise = randn_tensor(
            shape,
            generator=block_state.generator,
            device=components._execution_device,
            dtype=block_state.prompt_embeds.dtype,
        )
        block_state.latents = noise * components.scheduler.init_noise_sigma
        self.set_block_state(state, block_state)
        return components, state


class CogVideoXRotaryEmbedsStep(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step that makes the rotary embeddings of the latents' positions"

    @property
    def expected_components(self) -> list[Any]:
        return [ComponentSpec("transformer", CogVideoXTransformer3DModel)]

    @property
    def inputs(self) -> list[Any]:
        return [InputParam("latents", type_hint=torch.Tensor, required=True)]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [
            OutputParam(
                "image_rotary_emb",
                type_hint=tuple,
                description="cosines and sines [positions, D], or None for a model without rotary embeddings",
            )
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        config = components.transformer.config
        block_state.image_rotary_emb = None
        if config.use_rotary_positional_embeddings:
            block_state.image_rotary_emb = _rotary(
                config, block_state.latents.shape, components._execution_device
            )
        self.set_block_state(state, block_state)
        return components, state


def _rotary(config: Any, shape: torch.Size, device: torch.device) -> Any:
    """Cosines and sines for latents of `shape` [B, F, C, H, W]. Source: diffusers' CogVideoXPipeline."""
    _, frames, _, height, width = shape
    grid = (height // config.patch_size, width // config.patch_size)
    base = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
    if config.patch_size_t is None:
        # the trained grid is cut to the shape that is asked for
        return get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=get_resize_crop_region_for_grid(grid, base[1], base[0]),
            grid_size=grid,
            temporal_size=frames,
            device=device,
        )
    return get_3d_rotary_pos_embed(
        embed_dim=config.attention_head_dim,
        crops_coords=None,
        grid_size=grid,
        temporal_size=frames // config.patch_size_t,
        grid_type="slice",
        max_size=base,
        device=device,
    )


class CogVideoXCutPaddingStep(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step that cuts off the latent frames that were put in front"

    @property
    def inputs(self) -> list[Any]:
        return [
            InputParam("latents", type_hint=torch.Tensor, required=True),
            InputParam("padding_frames", type_hint=int, required=True),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [OutputParam("latents", type_hint=torch.Tensor, description="[B, F, C, H, W]")]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        block_state.latents = block_state.latents[:, block_state.padding_frames :]
        self.set_block_state(state, block_state)
        return components, state
