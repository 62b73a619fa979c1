"""CogVideoX as a whole: its stages in order, and the pipeline object that they run on."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from diffusers.modular_pipelines import OutputParam, SequentialPipelineBlocks

from pipelines.cogvideox.decode import CogVideoXDecoderStep
from pipelines.cogvideox.denoise import CogVideoXDenoiseStep
from pipelines.cogvideox.encode import MODEL_NAME, CogVideoXTextEncoderStep
from pipelines.cogvideox.pipeline import CogVideoXModularPipeline
from pipelines.cogvideox.prepare import (
    CogVideoXCutPaddingStep,
    CogVideoXPrepareLatentsStep,
    CogVideoXRotaryEmbedsStep,
    CogVideoXSetTimestepsStep,
)


class CogVideoXCoreDenoiseStep(SequentialPipelineBlocks):
    model_name = MODEL_NAME
    block_classes = (
        CogVideoXSetTimestepsStep,
        CogVideoXPrepareLatentsStep,
        CogVideoXRotaryEmbedsStep,
        CogVideoXDenoiseStep,
        CogVideoXCutPaddingStep,
    )
    block_names = ("set_timesteps", "prepare_latents", "rotary_embeds", "denoise", "cut_padding")

    @property
    def description(self) -> str:
        return "Steps that make denoised latents from the text embeddings"


class CogVideoXBlocks(SequentialPipelineBlocks):
    model_name = MODEL_NAME
    block_classes = (CogVideoXTextEncoderStep, CogVideoXCoreDenoiseStep, CogVideoXDecoderStep)
    block_names = ("text_encoder", "denoise", "decode")

    @property
    def description(self) -> str:
        return "CogVideoX, text to video"

    @property
    def outputs(self) -> list[Any]:
        return [OutputParam("videos")]

    def init_pipeline(
        self,
        pretrained_model_name_or_path: str | None = None,
        components_manager: Any = None,
        collection: str | None = None,
    ) -> CogVideoXModularPipeline:
        """As diffusers does, but with our class of pipeline: it looks for its own by the model's name."""
        return CogVideoXModularPipeline(
            blocks=deepcopy(self),
            pretrained_model_name_or_path=pretrained_model_name_or_path,
            components_manager=components_manager,
            collection=collection,
        )
