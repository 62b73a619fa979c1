"""The denoise loop of CogVideoX.

Its DPM scheduler keeps no state: `step` takes what it predicted for the finished latents one step before, and
returns the new prediction. That value is an output of the loop's blocks, so that a checkpoint carries it.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXTransformer3DModel
from diffusers.modular_pipelines import (
    ComponentSpec,
    InputParam,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    OutputParam,
)

from pipelines.cogvideox.encode import MODEL_NAME, guider

_GUIDED = {"encoder_hidden_states": ("prompt_embeds", "negative_prompt_embeds")}


class CogVideoXLoopBeforeDenoiser(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step within the loop that scales the latents for the denoiser"

    @property
    def expected_components(self) -> list[Any]:
        return [ComponentSpec("scheduler", CogVideoXDDIMScheduler)]

    @property
    def inputs(self) -> list[Any]:
        return [InputParam("latents", type_hint=torch.Tensor, required=True)]

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, t: torch.Tensor) -> tuple[Any, Any]:
        block_state.latent_model_input = components.scheduler.scale_model_input(block_state.latents, t)
        return components, block_state


class CogVideoXLoopDenoiser(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step within the loop that predicts the noise, with guidance"

    @property
    def expected_components(self) -> list[Any]:
        return [guider(), ComponentSpec("transformer", CogVideoXTransformer3DModel)]

    @property
    def inputs(self) -> list[Any]:
        return [
            InputParam("num_inference_steps", type_hint=int, required=True),
            InputParam("prompt_embeds", type_hint=torch.Tensor, required=True),
            InputParam("negative_prompt_embeds", type_hint=torch.Tensor),
            InputParam("image_rotary_emb", type_hint=tuple),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, t: torch.Tensor) -> tuple[Any, Any]:
        components.guider.set_state(step=i, num_inference_steps=block_state.num_inference_steps, timestep=t)
        batches = components.guider.prepare_inputs_from_block_state(block_state, _GUIDED)
        for batch in batches:
            components.guider.prepare_models(components.transformer)
            with components.transformer.cache_context(getattr(batch, components.guider._identifier_key)):
                prediction = components.transformer(
                    hidden_states=block_state.latent_model_input,
                    encoder_hidden_states=batch.encoder_hidden_states,
                    timestep=t.expand(block_state.latent_model_input.shape[0]),
                    image_rotary_emb=block_state.image_rotary_emb,
                    return_dict=False,
                )[0]
            batch.noise_pred = prediction.float()
            components.guider.cleanup_models(components.transformer)
        block_state.noise_pred = components.guider(batches)[0]
        return components, block_state


class CogVideoXLoopAfterDenoiser(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Step within the loop that updates the latents"

    @property
    def expected_components(self) -> list[Any]:
        return [ComponentSpec("scheduler", CogVideoXDDIMScheduler)]

    @property
    def inputs(self) -> list[Any]:
        return [
            InputParam("timesteps", type_hint=torch.Tensor, required=True),
            InputParam("generator", type_hint=torch.Generator),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [
            OutputParam("latents", type_hint=torch.Tensor, description="[B, F, C, H, W]"),
            OutputParam(
                "old_pred_original_sample",
                type_hint=torch.Tensor,
                description="the finished latents as predicted at this step; None with the DDIM scheduler",
            ),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, block_state: Any, i: int, t: torch.Tensor) -> tuple[Any, Any]:
        scheduler, before = components.scheduler, block_state.latents
        drawn = {"generator": block_state.generator, "return_dict": False}
        if isinstance(scheduler, CogVideoXDPMScheduler):
            latents, block_state.old_pred_original_sample = scheduler.step(
                block_state.noise_pred,
                block_state.old_pred_original_sample,
                t,
                block_state.timesteps[i - 1] if i > 0 else None,
                before,
                **drawn,
            )
        else:
            latents = scheduler.step(block_state.noise_pred, t, before, **drawn)[0]
        block_state.latents = latents.to(before.dtype)
        return components, block_state


class CogVideoXDenoiseStep(LoopSequentialPipelineBlocks):
    model_name = MODEL_NAME
    block_classes = (CogVideoXLoopBeforeDenoiser, CogVideoXLoopDenoiser, CogVideoXLoopAfterDenoiser)
    block_names = ("before_denoiser", "denoiser", "after_denoiser")

    @property
    def description(self) -> str:
        return "Step that denoises the latents over `timesteps`"

    @property
    def loop_inputs(self) -> list[Any]:
        return [
            InputParam("timesteps", type_hint=torch.Tensor, required=True),
            InputParam("num_inference_steps", type_hint=int, required=True),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        block_state.old_pred_original_sample = None
        with self.progress_bar(total=block_state.num_inference_steps) as progress_bar:
            for i, t in enumerate(block_state.timesteps):
                components, block_state = self.loop_step(components, block_state, i=i, t=t)
                progress_bar.update()
        self.set_block_state(state, block_state)
        return components, state
