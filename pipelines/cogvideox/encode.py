"""The text stage of CogVideoX: T5 embeddings of the prompt, and of the negative one if guidance is on."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ClassifierFreeGuidance
from diffusers.configuration_utils import FrozenDict
from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks, OutputParam
from transformers import T5EncoderModel, T5Tokenizer

MODEL_NAME = "cogvideox"


def guider() -> Any:
    """What guides the denoiser where the model's source says nothing of it."""
    return ComponentSpec(
        "guider",
        ClassifierFreeGuidance,
        config=FrozenDict({"guidance_scale": 6.0}),
        default_creation_method="from_config",
    )


class CogVideoXTextEncoderStep(ModularPipelineBlocks):
    model_name = MODEL_NAME

    @property
    def description(self) -> str:
        return "Text encoder step that makes the embeddings which guide the video generation"

    @property
    def expected_components(self) -> list[Any]:
        return [
            ComponentSpec("text_encoder", T5EncoderModel),
            ComponentSpec("tokenizer", T5Tokenizer),
            guider(),
        ]

    @property
    def inputs(self) -> list[Any]:
        return [
            InputParam("prompt", type_hint=str, required=True),
            InputParam("negative_prompt", type_hint=str),
            InputParam("max_sequence_length", type_hint=int, default=226),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        return [
            OutputParam("prompt_embeds", type_hint=torch.Tensor, description="[B, T, C]"),
            OutputParam(
                "negative_prompt_embeds",
                type_hint=torch.Tensor,
                description="[B, T, C], or None without guidance",
            ),
        ]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        block_state = self.get_block_state(state)
        length = block_state.max_sequence_length
        block_state.prompt_embeds = _embeds(components, block_state.prompt, length)
        block_state.negative_prompt_embeds = None
        if components.requires_unconditional_embeds:
            block_state.negative_prompt_embeds = _embeds(
                components, block_state.negative_prompt or "", length
            )
        self.set_block_state(state, block_state)
        return components, state


def _embeds(components: Any, prompt: str, length: int) -> torch.Tensor:
    """Embeddings [1, length, C] in the text encoder's dtype; `prompt` is cut or padded to `length` tokens."""
    tokens = components.tokenizer(
        [prompt],
        padding="max_length",
        max_length=length,
        truncation=True,
        add_special_tokens=True,
        return_tensors="pt",
    )
    embeds: torch.Tensor = components.text_encoder(tokens.input_ids.to(components._execution_device))[0]
    return embeds.to(components.text_encoder.dtype)
