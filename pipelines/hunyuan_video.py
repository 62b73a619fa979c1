"""HunyuanVideo 1.5 as diffusers has it, but for two blocks of its way from a picture.

In diffusers 0.42 the image encoder gets the picture as it was sent, though the VAE's block has cut it to the
shape of the clip; and what the encoder made of it is overwritten with zeros by the block that prepares the
noise. The classic pipeline encodes the cut picture, and the denoiser gets the result.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideo15AutoBlocks
from diffusers.modular_pipelines import InputParam
from diffusers.modular_pipelines.hunyuan_video1_5.before_denoise import HunyuanVideo15PrepareLatentsStep
from diffusers.modular_pipelines.hunyuan_video1_5.encoders import HunyuanVideo15VaeEncoderStep


class CutPictureStep(HunyuanVideo15VaeEncoderStep):
    """Encodes the picture, and leaves it cut to the shape of the clip for the blocks behind."""

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        cut = components.video_processor.resize(
            state.get("image"), height=state.get("height"), width=state.get("width"), resize_mode="crop"
        )
        state.set("image", cut)
        components, state = super().__call__(components, state)
        return components, state


class KeepImageEmbedsStep(HunyuanVideo15PrepareLatentsStep):
    """Prepares the noise, and leaves `image_embeds` as they are."""

    @property
    def inputs(self) -> list[Any]:
        return [*super().inputs, InputParam("image_embeds", type_hint=torch.Tensor, required=True)]

    @torch.no_grad()
    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        image_embeds = state.get("image_embeds")
        components, state = super().__call__(components, state)
        state.set("image_embeds", image_embeds)
        return components, state


class HunyuanVideo15Blocks(HunyuanVideo15AutoBlocks):
    def __init__(self) -> None:
        super().__init__()
        self.sub_blocks["vae_encoder"].sub_blocks["vae_encoder"] = CutPictureStep()
        from_picture = self.sub_blocks["denoise"].sub_blocks["image2video"]
        from_picture.sub_blocks["prepare_latents"] = KeepImageEmbedsStep()
