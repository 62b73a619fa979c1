"""The pipeline object of CogVideoX: what its blocks ask of all parts together."""

from __future__ import annotations

from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.modular_pipelines import ModularPipeline


class CogVideoXModularPipeline(ModularPipeline, CogVideoXLoraLoaderMixin):
    """Sizes come from the VAE's config, which a stand-in for the VAE answers too."""

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def temporal_compression(self) -> int:
        """Frames per latent frame, but for the first."""
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def requires_unconditional_embeds(self) -> bool:
        return bool(self.guider._enabled and self.guider.num_conditions > 1)
